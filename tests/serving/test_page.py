"""The page in a real browser: Chromium, headless."""

import base64
import shutil

import numpy as np
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
]
FLAGS = [
  "--disable-background-networking",
  "--disable-dev-shm-usage",
  "--disable-gpu",
  "--headless",
  "--no-sandbox",
]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
SIDE = 4  # of the images
ZOOM = 16  # pixels on the canvas to draw on, for one of the image
PICTURE = "#stage .picture > canvas:not(.sketch)"
# Returns the least contrast of a text on the page, and its element.
LEAST_CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => {
      const part = v / 255;
      if (part <= 0.03928) return part / 12.92;
      return ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(
      (node) => node.nodeType === 3 && node.textContent.trim(),
    );
    if (!own || !element.getClientRects().length) continue;
    const ink = parse(getComputedStyle(element).color).slice(0, 3);
    const both = [light(ink), light(ground(element))].sort((a, b) => b - a);
    const ratio = (both[0] + 0.05) / (both[1] + 0.05);
    found.push([ratio, element.outerHTML.slice(0, 80)]);
  }
  return found.sort((a, b) => a[0] - b[0])[0];
}"""


@pytest.fixture(scope="module")
def address(serving, exports):
  """The address of a server of both networks, the teacher first."""
  paths = f"{exports['teacher']},{exports['student']}"
  with serving(f"--workdir={paths}") as (_, url):
    yield url


@pytest.fixture(scope="module")
def browser():
  playwright = pytest.importorskip("playwright.sync_api")
  with playwright.sync_playwright() as driver:
    started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield started
    started.close()


@pytest.fixture
def page(browser, address):
  """A page that must not fail, nor ask another host for anything."""
  context = browser.new_context(viewport=DESKTOP)
  context.grant_permissions(["clipboard-read", "clipboard-write"])
  opened = context.new_page()
  opened.set_default_timeout(60_000)
  asked, failed = [], []
  opened.on("request", lambda request: asked.append(request.url))
  opened.on("pageerror", lambda error: failed.append(str(error)))
  opened.on(
    "console",
    lambda note: failed.append(note.text) if note.type == "error" else None,
  )
  opened.goto(address)
  yield opened
  context.close()
  assert not failed
  # Pictures that are saved are blobs.
  assert all(url.startswith((address, "blob:")) for url in asked)


def pixels(page, selector):
  """The red channel of a canvas, `[height, width]`."""
  text, width = page.evaluate(
    """(selector) => {
      const canvas = document.querySelector(selector);
      const { width, height } = canvas;
      const context = canvas.getContext("2d");
      const { data } = context.getImageData(0, 0, width, height);
      const red = data.filter((_, i) => i % 4 === 0);
      let text = "";
      for (const byte of red) text += String.fromCharCode(byte);
      return [btoa(text), width];
    }""",
    selector,
  )
  return np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, width)


def tiles(page, num):
  """The images in the grid, read from the screen, `[num, H, W, 1]`."""
  shown, columns = pixels(page, PICTURE), int(np.ceil(np.sqrt(num)))
  scale = 960 // (columns * SIDE)
  gap = 6 if num > 1 else 0
  centres = np.arange(SIDE) * scale + scale // 2
  found = []
  for index in range(num):
    row, column = divmod(index, columns)
    top, left = (place * (scale * SIDE + gap) for place in (row, column))
    found.append(shown[np.ix_(top + centres, left + centres)])
  return np.array(found)[..., None]


def wait_for_tiles(page, wanted):
  """Waits until the grid shows these images."""
  for _ in range(2400):
    page.wait_for_timeout(50)
    if np.array_equal(tiles(page, len(wanted)), wanted):
      return
  np.testing.assert_array_equal(tiles(page, len(wanted)), wanted)


def wait_for_hand(page, wanted):
  """Waits until the canvas to draw on shows this image."""
  for _ in range(2400):
    page.wait_for_timeout(50)
    shown = pixels(page, "canvas.sketch")[ZOOM // 2 :: ZOOM, ZOOM // 2 :: ZOOM]
    if np.array_equal(shown, wanted[..., 0]):
      return
  np.testing.assert_array_equal(shown, wanted[..., 0])


def slide(page, label, value):
  slider = page.get_by_label(label, exact=True)
  slider.evaluate(
    "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", value
  )


def choose(page, group, text):
  page.get_by_role("group", name=group).get_by_text(text, exact=True).click()


def copied(page):
  """The variables of the Python that the page copies."""
  page.keyboard.press("c")
  page.get_by_text("Copied").wait_for()
  found = {}
  exec(page.evaluate("navigator.clipboard.readText()"), found)
  return found


def test_pictures_follow_the_controls(page, models):
  student = models["student"].sampler
  wait_for_tiles(page, student.sample(num=16, seed=0))
  # As a hand drags it; the last place counts.
  for seed in range(0, 100, 3):
    slide(page, "Seed", seed)
  wait_for_tiles(page, student.sample(num=16, seed=99))
  page.keyboard.press("2")
  wait_for_tiles(page, student.sample(2, num=16, seed=99))
  slide(page, "Guidance", 2.5)
  wait_for_tiles(page, student.sample(2, num=16, seed=99, guidance=2.5))
  choose(page, "Steps", "1")
  one = student.sample(2, num=16, steps=1, seed=99, guidance=2.5)
  wait_for_tiles(page, one)
  page.get_by_role("group", name="Pictures").get_by_text(
    "4", exact=True
  ).click()
  wait_for_tiles(page, one[:4])


def test_python_that_is_copied_draws_what_is_shown(page, models):
  slide(page, "Seed", 41)
  wait_for_tiles(page, models["student"].sampler.sample(num=16, seed=41))
  np.testing.assert_array_equal(tiles(page, 16), copied(page)["images"])


def test_a_picture_is_saved(page):
  page.locator(f"{PICTURE}[data-id]").wait_for()
  with page.expect_download() as download:
    page.keyboard.press("s")
  with open(download.value.path(), "rb") as file:
    assert file.read(4) == b"\x89PNG"


def test_a_walk_moves_until_it_is_paused(page):
  page.get_by_role("button", name="Walk").click()
  page.locator(f"{PICTURE}[data-rate]").wait_for()
  seen = set()
  for _ in range(100):
    page.wait_for_timeout(50)
    seen.add(tiles(page, 1).tobytes())
    if len(seen) > 5:
      break
  assert len(seen) > 5
  page.keyboard.press(" ")
  page.get_by_role("button", name="Go on").wait_for()
  page.wait_for_timeout(1000)  # for what was asked before
  before = tiles(page, 1)
  page.wait_for_timeout(300)
  np.testing.assert_array_equal(tiles(page, 1), before)
  # What is shown can be drawn again.
  np.testing.assert_array_equal(before, copied(page)["images"])


def test_models_draw_side_by_side_from_the_same_noise(page, models):
  page.get_by_role("button", name="Compare").click()
  page.locator("#stage article").nth(1).wait_for()
  # Not `wait_for_function`, whose polls the page's security policy refuses.
  for _ in range(2400):
    if not page.locator("#stage article.running").count():
      break
    page.wait_for_timeout(50)
  # Both are those of the page's first seed.
  cards = page.locator("#stage article")
  names = [card.locator("h2").inner_text() for card in cards.all()]
  assert names[0].startswith("teacher") and names[1].startswith("student")
  wait_for_tiles(page, models["teacher"].sampler.sample(num=4, seed=0))


def test_strokes_become_pictures(page):
  page.get_by_role("button", name="Sketch").click()
  page.locator(f"{PICTURE}[data-id]").wait_for()
  before = tiles(page, 4)
  box = page.locator("canvas.sketch").bounding_box()
  left, top, side = box["x"], box["y"], box["width"]
  page.mouse.move(left + 0.1 * side, top + 0.1 * side)
  page.mouse.down()
  page.mouse.move(left + 0.9 * side, top + 0.9 * side, steps=8)
  page.mouse.up()
  found = copied(page)
  image = found["image"][..., 0]
  assert image[0, 0] > 100 and image[3, 3] > 100 and image[0, 3] == 0
  assert not np.array_equal(found["images"], before)
  wait_for_tiles(page, found["images"])


def test_a_brush_has_a_part_drawn_anew(page, models):
  page.get_by_role("button", name="Sketch").click()
  page.get_by_text("Inpaint", exact=True).click()
  given = models["student"].sampler.sample(num=1, seed=0)[0]
  wait_for_hand(page, given)
  # The keyboard's pen: down in the middle, and one to the right.
  page.locator("canvas.sketch").focus()
  for key in (" ", "ArrowRight"):
    page.keyboard.press(key)
  page.keyboard.press("Tab")
  found = copied(page)
  known, images = found["known"], found["images"]
  assert known.any() and not known.all()
  np.testing.assert_array_equal(found["image"], given)
  assert (images[:, known] == given[known]).all()
  wait_for_tiles(page, images)


def test_a_late_answer_to_strokes_is_not_the_picture(page, address, models):
  ends, held = [], []

  def hold(socket):
    server = socket.connect_to_server()
    server.on_message(lambda answer: held.append(answer))
    ends[:] = socket, server

  page.route_web_socket("**/api/stream", hold)
  page.goto(f"{address}#sketch")
  page.reload()
  strokes = lambda answer: isinstance(answer, bytes) and b'"sketch"' in answer
  for _ in range(2400):
    page.wait_for_timeout(50)
    if any(map(strokes, held)):
      break
  assert any(map(strokes, held))
  page.get_by_text("Inpaint", exact=True).click()
  socket, server = ends
  for answer in filter(strokes, held):
    socket.send(answer)
  server.on_message(lambda answer: socket.send(answer))
  wait_for_hand(page, models["student"].sampler.sample(num=1, seed=0)[0])


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_everything_fits_the_screen(page, address, size):
  for mode in ("draw", "walk", "compare", "sketch", "api"):
    page.goto(f"{address}#{mode}")
    page.locator(f"nav [data-mode={mode}][aria-current=page]").wait_for()
    page.set_viewport_size(size)
    page.wait_for_timeout(100)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size["width"], mode
    for canvas in page.locator("#stage canvas").all():
      box = canvas.bounding_box()
      assert box["x"] >= 0 and box["x"] + box["width"] <= size["width"], mode
      assert box["width"] > 60 and box["height"] > 60, mode


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read(page, address, scheme):
  """Their contrast is at least 4.5, as WCAG 2.2 asks (level AA)."""
  page.emulate_media(color_scheme=scheme)
  for mode in ("draw", "sketch", "api"):
    page.goto(f"{address}#{mode}")
    page.locator(f"html[data-theme={scheme}]").wait_for()
    page.locator(f"nav [data-mode={mode}][aria-current=page]").wait_for()
    ratio, text = page.evaluate(LEAST_CONTRAST)
    assert ratio >= 4.5, (mode, text)
