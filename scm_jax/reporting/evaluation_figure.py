"""`report.png`: samples of the evaluated runs, and how they score.

The upper half shows samples, a row for each run; the lower half the Fréchet
distances, as a ranking and against effective sampling compute.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scm_jax import files
from scm_jax.errors import UserError
from scm_jax.image_grid import check_images, image_grid
from scm_jax.reporting import chart_parts, charts, score_table, tables, titles

_WIDTH = 12.0  # inches
_CELL = 0.8  # inches, the largest side of a sample
_GAP = 3  # pixels between samples


@chart_parts.styled
def write_figure(
  path: str | os.PathLike[str],
  report: Mapping[str, Any],
  rows: Mapping[str, np.ndarray],
  *,
  headings: Sequence[str] = (),
  title: str = "",
) -> os.PathLike[str]:
  """Draws a report as PNG, atomically, and returns the path.

  Args:
    path: the file.
    report: the result of `records.make_report`, with at least one run.
    rows: images [columns, H, W, C] uint8 by row name, top to bottom, all of one
      H, W and C; short rows end in white. A row with the name of a run shows
      that run's scores beside its samples; any other (the real images) is only
      shown.
    headings: what stands above the columns, such as the classes; each heads
      as many columns as fit evenly.
    title: the title of the page.

  Raises:
    UserError: rows do not match each other, or the file cannot be written.
  """
  if not report["runs"]:
    raise UserError("a report's picture needs at least one run")
  rows = _even_rows(rows)
  runs = tables.summary(report["runs"])
  images = next(iter(rows.values()))
  cell = min(_CELL, 0.63 * _WIDTH / len(images))
  samples = cell * len(rows) * images.shape[1] / images.shape[2] + 0.9
  below = 1.6 + 0.42 * max(len(runs), 5)
  page = chart_parts.Page(_WIDTH, samples + below + 0.5)
  page.figure.suptitle(title, x=0.02, ha="left", size=17, weight="bold")
  halves: Any = page.figure.subfigures(2, 1, height_ratios=[samples, below])
  _draw_samples(halves[0].subplots(), runs, rows, headings)
  costed = runs.effective_compute.notna().any()
  below = halves[1].subplots(1, 1 + costed, squeeze=False)
  _draw_charts(below[0], runs)
  return files.write_bytes(path, page.png())


def _even_rows(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns rows of one length; UserError unless their images are alike."""
  if not rows:
    raise UserError("a report's picture needs at least one row of images")
  for name, images in rows.items():
    check_images(images, f"images of row {name!r}")
  shapes = {name: list(images.shape[1:]) for name, images in rows.items()}
  if len({tuple(shape) for shape in shapes.values()}) > 1:
    raise UserError(f"the rows of images differ in shape: {shapes}")
  longest = max(map(len, rows.values()))
  white = lambda row: [(0, longest - len(row)), *[(0, 0)] * 3]
  return {
    name: np.pad(row, white(row), constant_values=255)
    for name, row in rows.items()
  }


def _draw_charts(pair: Sequence[Axes], runs: pd.DataFrame) -> None:
  """Draws the ranking, and in second axes the distance against compute."""
  left = pair[0]
  space = score_table.spaces(runs)[0]
  chart_parts.ranking(left, runs, "name", f"fd_{space}")
  title = titles.quantity(space)
  chart_parts.finish(left, title=title, xlabel="lower is better")
  if len(pair) == 1:
    return
  right, x, y, by = pair[1], "effective_compute", f"fd_{space}", "objective"
  chart_parts.lines(right, runs, x, y, by, aside=by)
  charts.legend_entries(right, runs)
  right.legend()
  title = "Distance against sampling compute"
  chart_parts.finish(right, title=title, xlabel=charts.COMPUTE)


def _draw_samples(
  axes: Axes,
  runs: pd.DataFrame,
  rows: Mapping[str, np.ndarray],
  headings: Sequence[str],
) -> None:
  """Draws rows of images, names to their left and scores to their right."""
  columns = len(next(iter(rows.values())))
  canvas = image_grid(np.concatenate(list(rows.values())), columns, gap=_GAP)
  height, width, channels = canvas.shape
  pixels = canvas[..., 0] if channels == 1 else canvas
  grey = {"cmap": "gray", "vmin": 0, "vmax": 255}
  axes.imshow(pixels, interpolation="antialiased", **grey)
  axes.spines[:].set_visible(False)
  axes.grid(False)
  axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
  axes.set_xticks(_centres(width, len(headings)), headings, size=11)
  known = {row["name"]: row for row in runs.to_dict("records")}
  centres = _centres(height, len(rows))
  costs = {
    name: f"\n{run['nfe']} evaluation{'s' * (run['nfe'] != 1)}"
    for name, run in known.items()
    if not pd.isna(run["nfe"])
  }
  texts = [name + costs.get(name, "") for name in rows]
  axes.set_yticks(centres, texts, size=11)
  for label, name in zip(axes.get_yticklabels(), rows, strict=True):
    label.set_color(known[name]["color"] if name in known else "black")
  for place, space in enumerate(score_table.spaces(runs)[:2]):
    style: dict[str, Any] = {"size": 10.5, "ha": "center"}
    style["annotation_clip"] = False
    style |= {"xytext": (38 + 56 * place, 0), "textcoords": "offset points"}
    head = titles.distance(space).replace(" ", "\n", 1)
    axes.annotate(head, (width, -0.02 * height), va="bottom", **style)
    for centre, name in zip(centres, rows, strict=True):
      if run := known.get(name):
        text = chart_parts.short(run[f"fd_{space}"])
        axes.annotate(text, (width, centre), va="center", **style)


def _centres(length: int, count: int) -> np.ndarray:
  """Returns the centres of equal parts of a canvas, in pixels."""
  return _GAP / 2 + (np.arange(count) + 0.5) * (length - _GAP) / max(count, 1)
