"""Parts of charts: pages, logarithmic axes, numbered markers, labels.

A chart's rows are those of a flat table (see `statistics`). matplotlib is
imported where it is used and pyplot's global state is left alone.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
  from matplotlib.axes import Axes

GREY = "#6B6B6B"
_FINE = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)  # ticks of part of a decade
_AREA = 115  # of a marker that holds two digits, points squared


class Label(NamedTuple):
  """A text beside the point (x, y), which is given in the axes' units."""

  x: float
  y: float
  text: str
  color: str
  weight: str = "normal"


class Page:
  """A figure with a grid of axes, and labels that are placed last of all."""

  def __init__(self, width: float, height: float):
    """Makes an empty figure of a size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    self.figure = Figure(
      (width, height), dpi=130, facecolor="white", layout="constrained"
    )
    self.figure.get_layout_engine().set(  # pyrefly: ignore[missing-attribute]
      w_pad=0.12, h_pad=0.12, wspace=0.03, hspace=0.03
    )
    FigureCanvasAgg(self.figure)
    self._labels: list[tuple[Axes, Sequence[Label]]] = []

  def label(self, axes: "Axes", labels: Sequence[Label]) -> None:
    """Asks for labels in some axes, the most important first."""
    self._labels.append((axes, labels))

  def png(self) -> bytes:
    """Returns the picture; equal figures give equal bytes."""
    self.figure.draw_without_rendering()
    self.figure.set_layout_engine("none")
    for axes, labels in self._labels:
      place_labels(axes, labels)
    data = io.BytesIO()
    self.figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def short(value: float) -> str:
  """Returns a score in about three digits, never in scientific notation."""
  if value >= 100:
    return f"{value:,.0f}"
  return f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def heights(rows: pd.DataFrame, y: str) -> pd.Series:
  """Returns scores for a logarithmic axis.

  A score of 0, which has no logarithm, is drawn at half of the least other.
  """
  values = rows[y].astype(float)
  least = values[values > 0].min()
  return values.clip(lower=least / 2 if least > 0 else 0.5)


def bar_ends(rows: pd.DataFrame, y: str) -> tuple[pd.Series, pd.Series]:
  """Returns the ends of rows' error bars, which stay on a logarithmic axis."""
  values = heights(rows, y)
  sd = rows[f"{y}_sd"].astype(float) if f"{y}_sd" in rows else 0.0 * values
  sd = sd.fillna(0.0)
  return np.maximum(values - sd, 0.1 * values), values + sd


def lines(
  axes: "Axes", rows: pd.DataFrame, x: str, y: str, by: str, aside: str
) -> list[pd.DataFrame]:
  """Draws a line with numbered markers and error bars through each series.

  Args:
    axes: axes whose logarithmic x axis has its final limits.
    rows: a table with the columns `color`, `marker` and `nfe`.
    x: column of the horizontal position.
    y: column of the vertical position.
    by: column that tells the series apart.
    aside: column whose values are drawn slightly apart, because rows of equal
      cost would cover each other.

  Returns:
    The rows of each series, with the columns `at_x` and `at_y`.
  """
  places = list(dict.fromkeys(rows[aside]))
  low, high = axes.get_xlim()
  place = rows[aside].map(places.index) - (len(places) - 1) / 2
  at_x = rows[x].astype(float) * (high / low) ** (0.018 * place)
  rows = rows.assign(at_x=at_x, at_y=heights(rows, y)).sort_values("at_x")
  drawn = [series for _, series in rows.groupby(by, sort=False)]
  for series in drawn:
    color = series.color.iloc[0]
    axes.plot(
      series.at_x, series.at_y, color=color, alpha=0.5, lw=1.3, zorder=2
    )
    error_bars(axes, series, "at_x", y)
    for row in series.to_dict("records"):
      numbered_marker(axes, row["at_x"], row["at_y"], row)
  return drawn


def series_labels(
  drawn: Sequence[pd.DataFrame], point: int, weight: str = "normal"
) -> list[Label]:
  """Returns a label for each series that `lines` drew.

  Args:
    drawn: the rows of each series.
    point: index of the point that is labelled, 0 or -1.
    weight: weight of the letters.
  """
  return [
    Label(row.at_x, row.at_y, row.series, row.color, weight)
    for row in (series.iloc[point] for series in drawn)
  ]


def error_bars(axes: "Axes", rows: pd.DataFrame, x: str, y: str) -> None:
  """Draws vertical error bars where rows have a deviation."""
  low, high = bar_ends(rows, y)
  values = heights(rows, y)
  for index in rows.index[high > low]:
    axes.errorbar(
      [rows[x][index]],
      [values[index]],
      [[values[index] - low[index]], [high[index] - values[index]]],
      color=rows.color[index],
      lw=1.2,
      capsize=2.5,
      zorder=3,
    )


def numbered_marker(
  axes: "Axes", x: float, y: float, row: Mapping[str, Any]
) -> None:
  """Draws a row's marker with its number of network evaluations in it."""
  text = f"{row['nfe']}"
  small = len(text) > 2
  axes.scatter(
    [x],
    [y],
    s=_AREA * (1.5 if small else 1),
    color=row["color"],
    marker=row["marker"],
    edgecolors="white",
    linewidths=0.8,
    zorder=4,
  )
  axes.annotate(
    text,
    (x, y),
    size=5.5 if small else 6.5,
    weight="bold",
    color="white",
    ha="center",
    va="center_baseline",
    zorder=5,
  )


def logarithmic(axes: "Axes", name: str, values: Iterable[float]) -> None:
  """Makes an axis logarithmic, with a margin around positive values.

  Ticks are labelled with plain numbers, at 1, 2 and 5 where few decades show.
  """
  from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

  known = [value for value in values if value > 0]
  low, high = (min(known), max(known)) if known else (1.0, 1.0)
  margin = max((high / low) ** 0.09, 1.35 if name == "x" else 1.12)
  axes.set(
    **{f"{name}scale": "log", f"{name}lim": (low / margin, high * margin)}
  )
  axis = axes.xaxis if name == "x" else axes.yaxis
  decades = math.log10(high * margin / low * margin)
  if decades < 0.7:
    axis.set_major_locator(LogLocator(subs=_FINE))
  elif decades < 2.5:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
  axis.set_minor_formatter(NullFormatter())
  axis.grid(True, which="major", color="#E6E6E6", zorder=0)


def plain(value: float) -> str:
  """Returns a tick as a plain number: `0.0002`, `0.5`, `20`, `1,000`."""
  if value >= 1000:
    return f"{value:,.0f}"
  return f"{value:.6f}".rstrip("0").rstrip(".") or f"{value:g}"


def legend(axes: "Axes", columns: int = 4) -> float:
  """Draws the legend above the axes, where it covers nothing.

  Returns:
    The distance between axes and title that it needs, in points.
  """
  handles, names = axes.get_legend_handles_labels()
  if not handles:
    return 8.0
  axes.legend(
    handles,
    names,
    loc="lower left",
    bbox_to_anchor=(-0.01, 1.0),
    ncols=columns,
    frameon=False,
    fontsize=8.5,
    columnspacing=1.2,
    handletextpad=0.4,
    borderaxespad=0.2,
  )
  return 11.0 + 14.5 * math.ceil(len(names) / columns)


def finish(
  axes: "Axes", title: str, x: str, y: str = "", pad: float = 8
) -> None:
  """Writes title and axis labels, and draws a light frame.

  Args:
    axes: the axes.
    title: the title.
    x: the horizontal axis's label.
    y: the vertical axis's label.
    pad: distance between title and axes, in points.
  """
  for side in ("top", "right"):
    axes.spines[side].set_visible(False)
  for side in ("left", "bottom"):
    axes.spines[side].set_color("#BBBBBB")
  axes.set_axisbelow(True)
  axes.tick_params(labelsize=9, colors="#333333")
  axes.set_xlabel(x, size=9.5)
  axes.set_ylabel(y, size=9.5)
  axes.set_title(title, size=11, loc="left", pad=pad)


def place_labels(axes: "Axes", labels: Sequence[Label]) -> None:
  """Writes labels near their points, where they cover nothing.

  The first labels come nearest to their points; a label for which there is no
  room is left out.
  """
  import textalloc

  if not labels:
    return
  drawn = [path for path in _paths(axes) if len(path)]
  marks = np.concatenate([*drawn, [(label.x, label.y) for label in labels]])
  textalloc.allocate(
    axes,
    [label.x for label in labels],
    [label.y for label in labels],
    [label.text for label in labels],
    x_scatter=marks[:, 0],
    y_scatter=marks[:, 1],
    x_lines=[path[:, 0] for path in drawn if len(path) > 1],
    y_lines=[path[:, 1] for path in drawn if len(path) > 1],
    textsize=8,
    textcolor=[label.color for label in labels],
    fontweight=[label.weight for label in labels],
    linecolor=GREY,
    linewidth=0.5,
    margin=0.008,
    min_distance=0.014,
    max_distance=0.3,
    nbr_candidates=400,
    draw_all=False,
    zorder=6,
  )


def _paths(axes: "Axes") -> list[np.ndarray]:
  """Returns what is drawn in the axes, as paths [n, 2] in their units."""
  back = axes.transData.inverted()
  paths = [
    back.transform(line.get_transform().transform(line.get_xydata()))
    for line in axes.get_lines()
  ]
  for collection in axes.collections:
    paths += getattr(collection, "get_segments", list)()  # error bars
    paths.append(np.asarray(collection.get_offsets(), float))  # markers
  return [path for path in paths if np.isfinite(path).all()]
