"""`report.png`: what the runs made and how it scores, on one page.

The upper half shows samples, a row per run and the same classes in the same
columns; the lower half the Fréchet distance of every run beside the floor, and
against effective sampling compute.
"""

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scm_jax import files
from scm_jax.errors import UserError
from scm_jax.image_grid import check_images, image_grid
from scm_jax.metrics import charts
from scm_jax.metrics.report import main_features

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_WIDTH = 12.0  # inches
_NAMES, _SCORES = 2.15, 1.95  # inches beside the samples
_CELL = 0.8  # inches, the largest side of a sample
_HEAD, _FOOT, _BETWEEN = 1.2, 0.75, 0.85  # inches of title, axis labels, gap


def pick_by_label(
  images: np.ndarray,
  labels: np.ndarray,
  classes: Sequence[int],
  per_class: int = 1,
) -> np.ndarray:
  """The first images of each class, as one row of a figure.

  Args:
    images: [N, H, W, C].
    labels: [N] integers.
    classes: the classes, in order.
    per_class: images per class, next to each other.

  Returns:
    [len(classes) * per_class, H, W, C]. The places of a class that has fewer
    images stay white: no reason to lose an evaluation.
  """
  shape = (len(classes), per_class, *images.shape[1:])
  row = np.full(shape, 255, images.dtype)
  for place, wanted in enumerate(classes):
    found = images[np.asarray(labels) == wanted][:per_class]
    row[place, : len(found)] = found
  return row.reshape(-1, *images.shape[1:])


def write_figure(
  path: str | os.PathLike[str],
  report: Mapping[str, Any],
  rows: Mapping[str, np.ndarray],
  *,
  headings: Sequence[str] = (),
  title: str = "",
) -> os.PathLike[str]:
  """Draws a report as PNG, atomically, without touching pyplot's state.

  Args:
    path: the file.
    report: what `report.make_report` returned, with at least one run.
    rows: images [columns, H, W, C] uint8 by row name, top to bottom. A name of
      a run shows that run's scores beside its samples. A first row that is
      no run (the real images) shows the reference's split-half distances; any
      other is only shown. All rows have the same number of images.
    headings: what stands above the columns, such as the classes; each heads
      as many columns as fit evenly.
    title: of the whole page.

  Returns:
    The path written.

  Raises:
    UserError: rows do not match each other, or the file cannot be written.
  """
  if not report["runs"]:
    raise UserError("a report's picture needs at least one run")
  _check_rows(rows)

  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  images = next(iter(rows.values()))
  cell = min(_CELL, (_WIDTH - _NAMES - _SCORES) / len(images))
  samples = cell * len(rows) * images.shape[1] / images.shape[2]
  panels = 1.1 + 0.42 * max(len(report["runs"]), 5)
  height = _HEAD + samples + _BETWEEN + panels + _FOOT
  figure = Figure(figsize=(_WIDTH, height), dpi=130, facecolor="white")
  FigureCanvasAgg(figure)

  def place(left: float, bottom: float, wide: float, tall: float) -> "Axes":
    """Axes at a position given in inches."""
    return figure.add_axes(
      (left / _WIDTH, bottom / height, wide / _WIDTH, tall / height)
    )

  figure.text(
    0.3 / _WIDTH, 1 - 0.4 / height, title, size=17, weight="bold", va="center"
  )
  top = place(_NAMES, _FOOT + panels + _BETWEEN, cell * len(images), samples)
  _draw_samples(top, report, rows, headings)
  charts.draw_ranking(place(_NAMES - 0.3, _FOOT, 3.75, panels), report)
  charts.draw_compute(place(6.9, _FOOT, 4.75, panels), report)
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png")
  return files.write_bytes(path, buffer.getvalue())


def _check_rows(rows: Mapping[str, np.ndarray]) -> None:
  """Raises UserError unless all rows are alike."""
  if not rows:
    raise UserError("a report's picture needs at least one row of images")
  for name, images in rows.items():
    check_images(images, f"images of row {name!r}")
  shapes = {name: list(images.shape) for name, images in rows.items()}
  if len({tuple(shape) for shape in shapes.values()}) > 1:
    raise UserError(f"rows of images differ in shape: {shapes}")


def _draw_samples(
  axes: "Axes",
  report: Mapping[str, Any],
  rows: Mapping[str, np.ndarray],
  headings: Sequence[str],
) -> None:
  """Rows of images with names to their left and scores to their right."""
  columns = len(next(iter(rows.values())))
  gap = 3
  canvas = image_grid(np.concatenate(list(rows.values())), columns, gap=gap)
  height, width, channels = canvas.shape
  axes.imshow(
    canvas[..., 0] if channels == 1 else canvas,
    cmap="gray",
    vmin=0,
    vmax=255,
    aspect="auto",
    interpolation="antialiased",
  )
  axes.set_axis_off()
  pitch = (height - gap) / len(rows)
  inch = width / (axes.get_position().width * _WIDTH)
  for index, heading in enumerate(headings):
    centre = gap / 2 + (index + 0.5) * (width - gap) / len(headings)
    axes.text(centre, -0.1 * inch, heading, size=11, ha="center", va="bottom")
  features = _shown_features(report)
  slots = [width + (0.55 + 0.8 * i) * inch for i in range(len(features))]
  for slot, name in zip(slots, features, strict=True):
    axes.text(
      slot,
      -0.1 * inch,
      f"FD\n{name}",
      size=10,
      color=charts.GREY,
      ha="center",
      va="bottom",
      linespacing=1.2,
    )
  runs = {run["name"]: run for run in report["runs"]}
  looks = charts.styles(report["runs"])
  for index, name in enumerate(rows):
    middle = gap / 2 + (index + 0.5) * pitch
    run = runs.get(name)
    scores = run or (report["reference"] if index == 0 else {})
    scores = scores.get("fd", {})
    detail = _cost(run) if run else "half against half" if scores else ""
    color = looks[run["objective"]].color if run else "black"
    _name_row(axes, -0.18 * inch, middle, inch, (name, detail), color)
    for slot, feature in zip(slots, features, strict=True):
      if feature in scores:
        axes.text(
          slot,
          middle,
          charts.short(scores[feature]),
          size=12 if run else 10,
          color="black" if run else charts.GREY,
          style="normal" if run else "italic",
          ha="center",
          va="center",
        )


def _name_row(
  axes: "Axes",
  right: float,
  middle: float,
  inch: float,
  texts: tuple[str, str],
  color: str,
) -> None:
  """A row's name, and below it in small print what it cost."""
  name, detail = texts
  style = {"ha": "right", "va": "center"}
  lift = 0.08 * inch if detail else 0.0
  axes.text(
    right, middle - lift, name, size=12, weight="bold", color=color, **style
  )
  axes.text(
    right, middle + 0.1 * inch, detail, size=9, color=charts.GREY, **style
  )


def _cost(run: Mapping[str, Any]) -> str:
  plural = "" if run["nfe"] == 1 else "s"
  return f"{run['nfe']} evaluation{plural}"


def _shown_features(report: Mapping[str, Any]) -> list[str]:
  """At most two feature spaces, the main one first."""
  main = main_features(report)
  others = [name for name in report["runs"][0]["fd"] if name != main]
  return [main, *others][:2]
