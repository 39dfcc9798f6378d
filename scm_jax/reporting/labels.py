"""Words beside points, where they cover neither points nor each other."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.transforms import Bbox

_RADII = (9, 13, 18, 25, 34, 45, 58, 74, 92)  # points
_ANGLES = (0, 180, 90, 270, 30, 150, 330, 210, 60, 120, 300, 240)  # degrees
_NEAR = 14  # radius up to which a label needs no line to its point


class Label(NamedTuple):
  """What stands beside the point (x, y), in the axes' units."""

  x: float
  y: float
  text: str
  color: str
  weight: str = "normal"


def place(
  axes: "Axes", labels: Sequence[Label], size: float = 8
) -> list["Bbox"]:
  """Writes the labels, the first ones nearest to their points.

  They keep clear of all that was drawn before; a label for which there is no
  room is left out.

  Args:
    axes: with their final limits and scales, on an Agg canvas.
    labels: by importance.
    size: of the letters, points.

  Returns:
    The boxes of those that were written, in pixels.
  """
  figure = axes.figure
  renderer = figure.canvas.get_renderer()  # pyrefly: ignore[missing-attribute]
  scale = figure.dpi / 72
  inside = axes.get_window_extent(renderer)
  spots = _spots(axes, scale)
  placed: list[Bbox] = []
  for label in labels:
    text = axes.annotate(
      label.text,
      (label.x, label.y),
      xytext=(0, 0),
      textcoords="offset points",
      size=size,
      color=label.color,
      weight=label.weight,
      ha="center",
      va="center",
      zorder=6,
    )
    box = text.get_window_extent(renderer)
    for radius, dx, dy in _offsets(box.width / scale, box.height / scale):
      moved = box.translated(dx * scale, dy * scale)
      if _free(moved, inside, placed, spots):
        text.set_position((dx, dy))
        placed.append(moved)
        if radius > _NEAR:
          at = tuple(axes.transData.transform((label.x, label.y)))
          _line(axes, at, moved, label.color)
        break
    else:
      text.remove()
  return placed


def _spots(axes: "Axes", scale: float) -> np.ndarray:
  """What is drawn, as circles: centres and radii [n, 3] in pixels."""
  spots = [np.zeros((0, 3))]
  for line in axes.get_lines():
    path = line.get_transform().transform(np.asarray(line.get_xydata()))
    path = path.reshape(-1, 2)
    joined = line.get_linestyle() != "None"
    spots.append(_circles(_along(path) if joined else path, 2 * scale))
    if line.get_marker() != "None":
      spots.append(_circles(path, (line.get_markersize() / 2 + 2) * scale))
  for found in axes.collections:
    for segment in getattr(found, "get_segments", list)():  # error bars
      path = found.get_transform().transform(segment)
      spots.append(_circles(_along(path), 2 * scale))
    if sizes := list(getattr(found, "get_sizes", list)()):  # markers
      centres = axes.transData.transform(found.get_offsets())
      spots.append(_circles(centres, (sizes[0] ** 0.5 / 2 + 2) * scale))
  return np.concatenate(spots)


def _circles(centres: np.ndarray, radius: float) -> np.ndarray:
  return np.column_stack([centres, np.full(len(centres), radius)])


def _along(path: np.ndarray, step: float = 5.0) -> np.ndarray:
  """Points on a path, at most a step apart."""
  pieces = [path[:1]]
  for start, end in zip(path[:-1], path[1:], strict=True):
    count = max(int(np.hypot(*(end - start)) / step), 1)
    shares = np.arange(1, count + 1)[:, None] / count
    pieces.append(start + shares * (end - start))
  return np.concatenate(pieces)


def _offsets(
  width: float, height: float
) -> Iterator[tuple[float, float, float]]:
  """Radii and offsets of the text's centre, so that its edge is that far."""
  for radius in _RADII:
    for angle in _ANGLES:
      x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
      yield radius, x * (radius + width / 2), y * (radius + height / 2)


def _free(
  box: "Bbox", inside: "Bbox", placed: Sequence["Bbox"], spots: np.ndarray
) -> bool:
  """Whether a box is inside and covers nothing."""
  within = (
    inside.x0 <= box.x0
    and box.x1 <= inside.x1
    and inside.y0 <= box.y0
    and box.y1 <= inside.y1
  )
  if not within or any(box.padded(2).overlaps(other) for other in placed):
    return False
  x, y, radius = spots.T
  dx = np.maximum(np.maximum(box.x0 - x, x - box.x1), 0)
  dy = np.maximum(np.maximum(box.y0 - y, y - box.y1), 0)
  return not np.any(dx**2 + dy**2 < radius**2)


def _line(
  axes: "Axes", at: tuple[float, float], box: "Bbox", color: str
) -> None:
  """A thin line from a point to the nearest edge of its label."""
  end = (
    min(max(at[0], box.x0), box.x1),
    min(max(at[1], box.y0), box.y1),
  )
  back = axes.transData.inverted()
  (x0, y0), (x1, y1) = back.transform(at), back.transform(end)
  axes.plot([x0, x1], [y0, y1], color=color, lw=0.6, alpha=0.6, zorder=1.5)
