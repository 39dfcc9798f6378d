"""What the pictures show, and that their labels can be read."""

import io
import itertools

import matplotlib.image
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scm_jax.data import sources
from scm_jax.reporting import (
  chart_parts,
  charts,
  published,
  reading,
  summary,
  titles,
)


def _summary(*folders):
  return summary.summarize(reading.read([str(f) for f in folders], []))


@pytest.fixture(scope="session")
def panels(family):
  return charts.panels(_summary(*sorted(family.iterdir())), ["classifier"])


@pytest.fixture
def labelled(monkeypatch):
  """Axes, labels and the boxes of those that were written, by call."""
  calls = []
  place = chart_parts.place_labels

  def spy(axes: Axes, labels):
    before = set(axes.texts)
    place(axes, labels)
    texts = [text for text in axes.texts if text not in before]
    calls.append((axes, labels, texts))

  monkeypatch.setattr(chart_parts, "place_labels", spy)
  return calls


def _check(calls, share):
  assert calls
  for axes, labels, texts in calls:
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) >= share * len(labels)
    for one, other in itertools.combinations(boxes, 2):
      assert not one.overlaps(other)
    frame = axes.get_window_extent()
    assert all(frame.contains(box.x0, box.y0) for box in boxes)


@pytest.mark.parametrize(
  "name",
  [
    "imagenet512",  # the most labels
    pytest.param("imagenet64", marks=pytest.mark.slow),
    pytest.param("cifar10", marks=pytest.mark.slow),
  ],
)
def test_labels_do_not_overlap(panels, labelled, name):
  png = charts.draw_compute(panels, published.load(name))
  assert matplotlib.image.imread(io.BytesIO(png)).std() > 0.05
  assert len(labelled) == 2
  _check(labelled, 0.9)


def test_size_chart_names_every_series(panels, labelled):
  charts.draw_sizes(panels)
  _check(labelled, 1.0)
  (_, _, left), (axes, _, ratios) = labelled
  students = {f"s{c}, {n}" for c in ("CD", "CT")
              for n in ("1 step", "2 steps", "4 steps")}  # fmt: skip
  assert {text.get_text() for text in left} == students | {"teacher, 63 NFE"}
  assert {text.get_text() for text in ratios} == students
  # A student as good as its teacher would stand on a line that is in view.
  low, high = axes.get_ylim()
  assert low < 1 < 1.8 < high


def test_points_are_the_scores(panels, monkeypatch):
  drawn = []
  lines = chart_parts.lines

  def spy(*args):
    drawn.extend(lines(*args))
    return drawn

  monkeypatch.setattr(chart_parts, "lines", spy)
  charts.draw_compute(panels, published.load("none"))
  rows = panels[0].rows
  points = pd.concat(drawn)
  assert len(points) == rows.in_series.sum() < len(rows)
  assert (points.at_y == points.fd_classifier).all()
  # Objectives are set aside, but by less than the next size is away.
  compute = points.effective_compute.astype(float)
  assert list(points.at_x) == pytest.approx(list(compute), rel=0.3)


def test_equal_scores_of_one_line_stand_apart(panels):
  rows = panels[0].rows.assign(label="all", fd_classifier=1.0)
  axes = Figure().subplots()
  chart_parts.ranking(axes, rows, "label", "fd_classifier")
  assert len({text.get_position() for text in axes.texts}) == len(rows)


def test_one_axes_only_where_features_are_the_same(tmp_path, make):
  runs = [make.record("scd", 2, {"inception": 2.5, "pixels": 9.0}, 280_000_000)]
  run = make.run(tmp_path / "scd", runs, data={"name": "imagenet512_latents"})
  rows, results = _summary(run), published.load("imagenet512")

  def width(space):
    panel = charts.panels(rows, [space])
    picture = io.BytesIO(charts.draw_compute(panel, results))
    return matplotlib.image.imread(picture).shape[1]

  assert width("pixels") > 1.7 * width("inception")


def test_distances_of_zero_and_single_points(tmp_path, make):
  scores = {1: 0.0, 2: 1.0}
  runs = [make.record("scd", n, {"pixels": scores[n]}, 9) for n in scores]
  rows = _summary(make.run(tmp_path / "scd", runs))
  none = published.load("none")
  for some in (rows, rows[:1]):
    panel = charts.panels(some, ["pixels"])
    for png in (charts.draw_compute(panel, none), charts.draw_sizes(panel)):
      assert png.startswith(b"\x89PNG")


def test_an_unknown_objective_is_drawn(tmp_path, make):
  """As a newer version may write it."""
  record = make.record("scd", 2, {"pixels": 1.0}, 9) | {"objective": "newer"}
  rows = _summary(make.run(tmp_path / "newer", [record]))
  assert rows.series[0] == "newer, 2 steps"
  png = charts.draw_compute(charts.panels(rows, ["pixels"]), rows[:0])
  assert png.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", list(sources.BUILT_IN))
def test_datasets_of_the_package_have_titles(name):
  assert not titles.dataset(name).startswith("scm_")
