"""The HTTP API and the stream, as clients see them."""

import asyncio
import io
import json
import struct
import threading

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from scm_jax import image_grid
from scm_jax.serving import app, guard, requests, schedule

ASKED = {"labels": [1], "num": 4, "seed": 3}
TOKEN = "a token"
STREAM = "ws://127.0.0.1:8000/api/stream"


@pytest.fixture(scope="module")
def images(models):
  """What the first model draws of `ASKED`."""
  return models["student"].sampler.sample([1], num=4, seed=3)


def error(answer, status=400):
  """The one line of a refusal."""
  assert answer.status_code == status, answer.text
  line = answer.json()["error"]
  assert "\n" not in line and "Traceback" not in line
  return line


def test_a_sample_is_a_picture(post, images):
  answer = post("/api/sample", ASKED)
  assert answer.headers["content-type"] == "image/png"
  pixels = np.asarray(Image.open(io.BytesIO(answer.content)))
  grid = image_grid.image_grid(images, 2)
  np.testing.assert_array_equal(pixels, grid[..., 0])


def test_a_sample_is_an_array(post, images):
  answer = post("/api/sample?format=npz", ASKED)
  found = np.load(io.BytesIO(answer.content))
  np.testing.assert_array_equal(found["samples"], images)
  np.testing.assert_array_equal(found["labels"], [1, 1, 1, 1])


def test_python_of_a_request(post, images):
  found = {}
  exec(post("/api/python/sample", ASKED).text, found)
  np.testing.assert_array_equal(found["images"], images)


def test_models_are_described(client):
  about = client.get("/api/models").json()
  assert [model["name"] for model in about["models"]] == ["student", "teacher"]
  assert about["models"][0]["classes"] == 3
  assert client.get("/api/status").json() == {"programs": 0, "waiting": 0}


def test_the_page_and_its_files(client):
  page = client.get("/")
  assert page.headers["content-type"].startswith("text/html")
  assert "default-src 'self'" in page.headers["content-security-policy"]
  for name in ("main.js", "style.css", "icon.svg"):
    assert f"page/{name}" in page.text
    assert client.get(f"/page/{name}").status_code == 200


def test_nothing_is_read_from_elsewhere():
  """No file of the page names another host."""
  for file in app.PAGE.iterdir():
    text = file.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http://" not in text and "https://" not in text


@pytest.mark.parametrize(
  "path",
  [
    "/page/../app.py",
    "/page/%2e%2e/app.py",
    "/page/..%2fapp.py",
    "/page//etc/passwd",
    "/page/",
    "/api",
    "/app.py",
  ],
)
def test_no_other_file_is_read(client, path):
  error(client.get(path), 404)


@pytest.mark.parametrize(
  ("body", "status"),
  [
    ({"num": 17}, 400),
    ({"model": "../secret"}, 400),
    ({"nummer": 1}, 400),
    ([1], 400),
    ({"labels": "a" * 1_000_000}, 413),
  ],
)
def test_a_bad_request_is_one_line(post, body, status):
  line = error(post("/api/sample", body), status)
  assert len(line) < 250


def test_other_requests_are_one_line(client):
  error(client.get("/api/sample"), 405)
  error(client.post("/api/steal", json={}))
  error(client.post("/api/sample?format=exe", json={}))
  json_type = {"content-type": "application/json"}
  for content in (b"{", b"null"):
    error(client.post("/api/sample", content=content, headers=json_type))
  # What pages of other sites may send without asking.
  error(client.post("/api/sample", data={"num": 1}), 415)
  error(client.post("/api/sample", content=b"{}"), 415)


def test_a_body_without_a_length_is_bounded_too(client):
  parts = (b" " * 10_000 for _ in range(1000))
  headers = {"content-type": "application/json"}
  error(client.post("/api/sample", content=parts, headers=headers), 413)


@pytest.mark.parametrize(
  ("headers", "status"),
  [
    ({"host": "127.0.0.1:9"}, 200),
    ({"host": "evil.example"}, 400),
    ({"host": "127.0.0.1.evil.example"}, 400),
    ({"host": "[::1]:8000"}, 400),
    ({"origin": "http://127.0.0.1:8000"}, 200),
    ({"origin": "http://127.0.0.1:9"}, 403),
    ({"origin": "https://evil.example"}, 403),
    ({"origin": "null"}, 403),
  ],
)
def test_only_its_own_pages_may_call(client, headers, status):
  answer = client.get("/api/models", headers=headers)
  if status != 200:
    error(answer, status)
  assert answer.status_code == status


def test_other_sites_get_no_stream(client):
  headers = {"origin": "https://evil.example"}
  with pytest.raises(WebSocketDisconnect):
    with client.websocket_connect(STREAM, headers=headers):
      pass


@pytest.fixture
def remote(models, engine):
  """A client of a server for other machines."""
  guarded = guard.Guard(app.make(models, engine), (), TOKEN)
  return lambda: TestClient(guarded, "http://anywhere")


def test_a_token_is_needed_for_everything(remote):
  for path in ("/", "/page/main.js", "/api/models", "/?token=", "/nothing"):
    error(remote().get(path), 401)
  error(remote().post("/api/sample", json={}), 401)
  error(remote().get("/", headers={"authorization": "Bearer é".encode()}), 401)
  with pytest.raises(WebSocketDisconnect):
    with remote().websocket_connect("ws://anywhere/api/stream"):
      pass


def test_a_token_opens(remote):
  bearer = {"authorization": f"Bearer {TOKEN}"}
  assert remote().get("/api/models", headers=bearer).status_code == 200
  # The page's address has it; what the page loads shows a cookie.
  browser = remote()
  assert browser.get("/", params={"token": TOKEN}).status_code == 200
  assert browser.get("/page/main.js").status_code == 200
  with browser.websocket_connect("ws://anywhere/api/stream") as socket:
    assert draw(socket, ASKED)[1].shape == (4, 4, 4, 1)


def test_servers_on_one_host_have_tokens_of_their_own(models, engine):
  """A browser sends the cookies of a host to all its ports."""
  browser = TestClient(None)
  one, two = (
    TestClient(guard.Guard(app.make(models, engine), (), token), url)
    for token, url in (("a", "http://here:1000"), ("b", "http://here:2000"))
  )
  two.cookies = one.cookies = browser.cookies
  for client, token in ((one, "a"), (two, "b")):
    assert client.get("/", params={"token": token}).status_code == 200
  for client in (one, two):
    assert client.get("/api/models").status_code == 200


def ask(socket, body, view="grid", number=1, action="sample"):
  head = {"action": action, "view": view, "id": number}
  socket.send_text(json.dumps(head | body))


def receive(socket):
  """A header, and images if there are any."""
  message = socket.receive()
  if message.get("text"):
    return json.loads(message["text"]), None
  data = message["bytes"]
  (length,) = struct.unpack("<I", data[:4])
  head = json.loads(data[4 : 4 + length])
  pixels = np.frombuffer(data[4 + length :], np.uint8)
  return head, pixels.reshape(head["shape"])


def draw(socket, body, **more):
  ask(socket, body, **more)
  head, found = receive(socket)
  return receive(socket) if head.get("compiling") else (head, found)


def test_a_stream_draws(client, images):
  with client.websocket_connect(STREAM) as socket:
    head, found = draw(socket, ASKED, view="a", number=5)
    assert (head["view"], head["id"], head["evaluations"]) == ("a", 5, 2)
    np.testing.assert_array_equal(found, images)


def test_a_mistake_is_answered_whatever_its_view_is_called(client):
  with client.websocket_connect(STREAM) as socket:
    ask(socket, {"action": "x"}, view="\ud800", number=1)
    head, _ = receive(socket)
    assert head["id"] == 1 and head["view"] == "\ud800" and head["error"]


def test_a_program_that_is_compiled_is_told(client):
  with client.websocket_connect(STREAM) as socket:
    ask(socket, ASKED)
    head, found = receive(socket)
    assert head["compiling"] and found is None
    assert receive(socket)[1] is not None
    ask(socket, ASKED | {"seed": 4})
    assert "compiling" not in receive(socket)[0]


def test_of_many_requests_the_last_is_drawn(client, models):
  """Each is answered, by images or by the word that it was dropped."""
  with client.websocket_connect(STREAM) as socket:
    draw(socket, ASKED)
    for number in range(40):
      ask(socket, ASKED | {"seed": number}, number=number)
    answers = [receive(socket) for _ in range(40)]
    assert {head["id"] for head, _ in answers} == set(range(40))
    drawn = {head["id"]: found for head, found in answers if found is not None}
    assert all(head.get("dropped") for head, found in answers if found is None)
    sampler = models["student"].sampler
    for number, found in drawn.items():
      own = sampler.sample([1], num=4, seed=number)
      np.testing.assert_array_equal(found, own)
    assert 39 in drawn


def test_who_closes_the_connection_waits_no_more(models, engine, monkeypatch):
  """Its place in the queue, here the only one, is free at once."""
  monkeypatch.setattr(schedule, "VIEWS", 1)
  begun, end, draw = threading.Event(), threading.Event(), requests.Sample.draw

  def slowly(self):
    begun.set()
    end.wait(60)
    return draw(self)

  monkeypatch.setattr(requests.Sample, "draw", slowly)
  application = app.make(models, engine)
  headers = [(b"content-type", b"application/json")]
  scope = {"type": "http", "method": "POST", "path": "/api/sample"}
  scope |= {"query_string": b"", "headers": headers, "client": ("me", 1)}

  async def ask(leaves: bool) -> int:
    body = [{"type": "http.request", "body": json.dumps(ASKED).encode()}]
    sent = []

    async def receive():
      if not body and not leaves:
        await asyncio.Event().wait()
      return body.pop() if body else {"type": "http.disconnect"}

    async def send(message):
      sent.append(message)

    await application(dict(scope), receive, send)
    return sent[0]["status"]

  async def clients() -> list[int]:
    first = asyncio.create_task(ask(leaves=False))
    await asyncio.to_thread(begun.wait, 60)
    assert await asyncio.wait_for(ask(leaves=True), 60) == 503
    last = asyncio.create_task(ask(leaves=False))
    await asyncio.sleep(0.1)
    end.set()
    return await asyncio.gather(first, last)

  try:
    assert asyncio.run(clients()) == [200, 200]
  finally:
    end.set()


@pytest.mark.parametrize(
  "text",
  ["", "{", "[]", "null", '{"action": "sample", "view": [], "num": 4}'],
)
def test_a_bad_message_is_answered_and_the_stream_goes_on(client, text):
  with client.websocket_connect(STREAM) as socket:
    socket.send_text(text)
    assert receive(socket)[0]["error"]
    socket.send_bytes(b"\xff")
    assert receive(socket)[0]["error"]
    ask(socket, {"num": 17}, view="b", number=2)
    head, _ = receive(socket)
    assert (head["view"], head["id"]) == ("b", 2) and "num" in head["error"]
    assert draw(socket, ASKED)[1] is not None


def test_two_pages_share_the_device(client):
  with (
    client.websocket_connect(STREAM) as one,
    client.websocket_connect(STREAM) as other,
  ):
    for seed in range(5):
      for socket in (one, other):
        ask(socket, ASKED | {"seed": seed}, number=seed, view=seed)
    for socket in (one, other):
      ids = [receive(socket) for _ in range(5)]
      ids += [receive(socket) for head, _ in ids if head.get("compiling")]
      seen = {head["id"] for head, found in ids if found is not None}
      assert seen == set(range(5))
