"""The report's picture: made, not trivial, and failing in one line."""

import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from scm_jax import errors
from scm_jax.reporting import chart_parts, titles
from scm_jax.reporting import evaluation_figure as figure
from scm_jax.reporting import records as report

_NAMES = (
  ("teacher, 63 NFE", "teacher", 63, 0.2),
  ("teacher, 1 step", "teacher", 1, 16.0),
  ("sCD, 2 steps", "scd", 2, 0.2),
  ("sCT, 1 step", "sct", 1, 120.0),
  ("mine, 1 step", "mine", 1, 0.0),
)


@pytest.fixture
def content():
  runs = [
    report.run_record(
      name,
      objective,
      steps=nfe,
      nfe=nfe,
      params=217_000,
      scores={"fd": {"pixels": 2 * fd, "classifier": fd}, "num": 1797},
      seed=0,
    )
    for name, objective, nfe, fd in _NAMES
  ]
  drawn = datasets.load_digits().images[:10] * (255 / 16)
  row = np.round(drawn).astype(np.uint8)[..., None]
  rows = {"real images": row, **{run["name"]: row for run in runs}}
  floor = {"fd": {"pixels": 0.3, "classifier": 0.25}}
  return report.make_report(runs, floor), rows


def _pixels(path):
  with Image.open(path) as image:
    return np.array(image.convert("RGB")).astype(int)


def test_picture_shows_samples_and_colours(content, tmp_path):
  path = figure.write_figure(
    tmp_path / "new" / "report.png",
    *content,
    headings=[str(i) for i in range(10)],
    title="digits",
  )
  pixels = _pixels(path)
  height, width, _ = pixels.shape
  assert height > 1000 and width > 1000
  names = [name for _, name, *_ in _NAMES]
  for look in titles.appearances(names).values():
    colour = [int(look.color[i : i + 2], 16) for i in (1, 3, 5)]
    assert (pixels == colour).all(axis=-1).sum() > 200
  # The samples are the only black areas.
  assert 0.05 < (pixels.max(axis=-1) < 10).mean() < 0.5
  # Nothing is cut off: the border is empty.
  for edge in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]):
    assert (edge == 255).all()
  assert [p.name for p in path.parent.iterdir()] == ["report.png"]


@pytest.mark.slow
def test_picture_follows_the_samples_without_a_floor(content, tmp_path):
  content[0]["runs"] = content[0]["runs"][:2]
  first = figure.write_figure(tmp_path / "a.png", *content)
  again = figure.write_figure(tmp_path / "b.png", *content)
  assert first.read_bytes() == again.read_bytes()
  rows = {**content[1], "teacher, 1 step": content[1]["real images"][::-1]}
  other = figure.write_figure(tmp_path / "c.png", content[0], rows)
  assert first.read_bytes() != other.read_bytes()
  # The floor is measured at half the size: it would stand beyond all models.
  content[0]["reference"] = {}
  without = figure.write_figure(tmp_path / "d.png", *content)
  assert first.read_bytes() == without.read_bytes()


def test_picture_in_colour_with_one_feature(content, tmp_path):
  scores = {"fd": {"pixels": 1.0}, "num": 70}
  run = report.run_record(
    "a", "scd", steps=1, nfe=1, params=10**9, scores=scores, seed=0
  )
  shape = (20, 6, 9, 3)
  images = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
  path = figure.write_figure(
    tmp_path / "a.png", report.make_report([run], {}), {"a": images}
  )
  assert len(np.unique(_pixels(path).reshape(-1, 3), axis=0)) > 2000


def test_rows_of_runs_with_fewer_classes_end_in_white(content, tmp_path):
  written, rows = content
  written["runs"] = written["runs"][:1]
  name = written["runs"][0]["name"]
  short = {"real images": rows[name][:3], name: rows[name]}
  white = np.full_like(rows[name], 255)
  padded = {**short, "real images": np.concatenate([rows[name][:3], white[3:]])}
  drawn = [
    figure.write_figure(tmp_path / f"{i}.png", written, images).read_bytes()
    for i, images in enumerate((short, padded))
  ]
  assert drawn[0] == drawn[1]


def test_global_drawing_state_is_left_alone(content, tmp_path):
  before = dict(matplotlib.rcParams)
  loaded = "matplotlib.pyplot" in sys.modules
  content[0]["runs"] = content[0]["runs"][:1]
  figure.write_figure(tmp_path / "a.png", *content)
  assert dict(matplotlib.rcParams) == before
  assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_rows_that_do_not_match(content, tmp_path):
  written, rows = content
  uneven = {**rows, "teacher, 1 step": rows["teacher, 1 step"][:, 1:]}
  with pytest.raises(errors.UserError, match="differ in shape"):
    figure.write_figure(tmp_path / "a.png", written, uneven)
  with pytest.raises(errors.UserError, match="at least one row"):
    figure.write_figure(tmp_path / "a.png", written, {})
  with pytest.raises(errors.UserError, match="at least one run"):
    figure.write_figure(tmp_path / "a.png", report.make_report([], {}), rows)
  with pytest.raises(errors.UserError, match="row 'x' must be uint8"):
    figure.write_figure(
      tmp_path / "a.png", written, {"x": rows["real images"] / 255.0}
    )
  assert not list(tmp_path.iterdir())


def test_scores_are_short():
  values = [0.17449, 1.2, 16.58, 158.2, 12345.6]
  found = [chart_parts.short(value) for value in values]
  assert found == ["0.174", "1.200", "16.6", "158", "12,346"]
