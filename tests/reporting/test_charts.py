"""What the pictures show, and that their words can be read."""

import io
import itertools

import matplotlib.image
import pytest
from matplotlib.axes import Axes

from scm_jax.reporting import (
  compute_chart,
  drawing,
  gather,
  labels,
  published,
  size_chart,
  summary,
)


@pytest.fixture(scope="session")
def panels(family):
  folders = [str(folder) for folder in sorted(family.iterdir())]
  rows = summary.rows(gather.gather(folders, []))
  return drawing.panels(rows, ["classifier"])


@pytest.fixture
def written(monkeypatch):
  """Boxes and wishes of all labels that a chart places, by call."""
  calls = []
  place = labels.place

  def spy(axes: Axes, wanted, **how):
    boxes = place(axes, wanted, **how)
    calls.append((axes, wanted, boxes))
    return boxes

  for module in (compute_chart, size_chart):
    monkeypatch.setattr(module, "place", spy)
  return calls


def _check(calls, share):
  assert calls
  for axes, wanted, boxes in calls:
    assert len(boxes) >= share * len(wanted)
    for one, other in itertools.combinations(boxes, 2):
      assert not one.overlaps(other)
    frame = axes.get_window_extent()
    assert all(frame.contains(box.x0, box.y0) for box in boxes)
    for _, _, text, *_ in wanted:
      assert text


@pytest.mark.parametrize("name", list(published.TITLES))
def test_labels_do_not_overlap(panels, written, name):
  png = compute_chart.draw(panels, published.load(name))
  assert matplotlib.image.imread(io.BytesIO(png)).std() > 0.05
  assert len(written) == 2
  _check(written, 0.9)


def test_size_chart_names_every_series(panels, written):
  size_chart.draw(panels)
  _check(written, 1.0)
  (_, left, _), (right, ratios, _) = written
  students = {f"s{c}, {n}" for c in ("CD", "CT")
              for n in ("1 step", "2 steps", "4 steps")}  # fmt: skip
  assert {label.text for label in left} == students | {"teacher, 63 NFE"}
  assert {label.text for label in ratios} == students
  # A student as good as its teacher would stand on a line that is in view.
  low, high = right.get_ylim()
  assert low < 1 < 1.8 < high


def test_points_are_the_scores(panels, monkeypatch):
  points = []
  marker = drawing.marker

  def spy(axes, x, y, style, words):
    points.append((x, y, words))
    marker(axes, x, y, style, words)

  monkeypatch.setattr(drawing, "marker", spy)
  compute_chart.draw(panels, [])
  shown = [row for row in panels[0].rows if row.shown]
  assert sorted(words for *_, words in points) == sorted(
    str(row.nfe) for row in shown
  )
  heights = sorted(row.fd["classifier"].mean for row in shown)
  assert sorted(y for _, y, _ in points) == pytest.approx(heights)
  # Set aside, but by less than the next size is away.
  for x, y, words in points:
    row = next(r for r in shown if r.fd["classifier"].mean == pytest.approx(y)
               and str(r.nfe) == words)  # fmt: skip
    assert x == pytest.approx(row.compute, rel=0.3)


def test_one_axes_only_where_features_are_the_same(tmp_path, make):
  runs = [make.record("scd", 2, {"inception": 2.5, "pixels": 9.0}, 280_000_000)]
  run = make.run(tmp_path / "scd", runs, data={"name": "imagenet512_latents"})
  rows = summary.rows(gather.gather([str(run)], []))
  figures = published.load("imagenet512")

  def width(space):
    panel = drawing.panels(rows, [space])
    picture = io.BytesIO(compute_chart.draw(panel, figures))
    return matplotlib.image.imread(picture).shape[1]

  assert width("pixels") > 1.7 * width("inception")


def test_distances_of_zero_and_single_points(tmp_path, make):
  scores = {1: 0.0, 2: 1.0}
  runs = [make.record("scd", n, {"pixels": scores[n]}, 9) for n in scores]
  run = make.run(tmp_path / "scd", runs)
  rows = summary.rows(gather.gather([str(run)], []))
  for some in (rows, rows[:1]):
    panel = drawing.panels(some, ["pixels"])
    for png in (compute_chart.draw(panel, []), size_chart.draw(panel)):
      assert png.startswith(b"\x89PNG")
