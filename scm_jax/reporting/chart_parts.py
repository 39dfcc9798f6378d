"""Parts of charts: pages, lines of numbered markers, rankings, labels.

A chart's rows are those of a flat table (see `score_table`). pyplot and its
global state are left alone.
"""

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

GREY = "#6B6B6B"
STYLE = {
  "axes.axisbelow": True,
  "axes.edgecolor": "#BBBBBB",
  "axes.grid": True,
  "axes.labelsize": 9.5,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": 11,
  "errorbar.capsize": 2.5,
  "figure.constrained_layout.h_pad": 0.1,
  "figure.constrained_layout.use": True,
  "figure.constrained_layout.w_pad": 0.1,
  "figure.dpi": 130,
  "font.size": 9,
  "grid.color": "#E6E6E6",
  "legend.fontsize": 8.5,
  "legend.frameon": False,
  "lines.linewidth": 1.2,
  "savefig.dpi": "figure",
  "xtick.labelcolor": "#333333",
  "ytick.labelcolor": "#333333",
}
# Numbers in markers.
_MARKER = {"ms": 10.5, "mec": "white", "mew": 0.8, "zorder": 4}
_NUMBER = {
  "size": 6,
  "weight": "bold",
  "color": "white",
  "ha": "center",
  "va": "center_baseline",
  "zorder": 5,
}
# Ticks of a decade, by how many decades are shown.
_TICKS = {
  0.7: (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8),
  2.5: (1, 2, 5),
  99: (1,),
}

# A decorator for functions that draw.
styled = matplotlib.rc_context(STYLE)


class Label(NamedTuple):
  """A text beside the point (x, y), which is given in the axes' units."""

  x: float
  y: float
  text: str
  color: str


class Page:
  """A figure whose labels are placed last, when all else has its place."""

  def __init__(self, width: float, height: float):
    """Makes an empty figure of a size in inches."""
    self.figure = Figure((width, height))
    FigureCanvasAgg(self.figure)
    self._labels: list[tuple[Axes, Sequence[Label]]] = []

  def label(self, axes: Axes, labels: Sequence[Label]) -> None:
    """Requests labels in some axes, the most important first."""
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


def positive(values: pd.Series) -> pd.Series:
  """Returns scores for a logarithmic axis.

  A score of 0, which has no logarithm, is drawn at half of the least other.
  """
  values = values.astype(float)
  least = values[values > 0].min()
  return values.clip(lower=least / 2 if least > 0 else 0.5)


def lines(
  axes: Axes, rows: pd.DataFrame, x: str, y: str, by: str, aside: str
) -> list[pd.DataFrame]:
  """Draws a line with numbered markers and error bars through each series.

  Both axes become logarithmic. The rows have a `color`, a `marker` and the
  number `nfe` in it; the column `by` tells the series apart. Rows that differ
  in the column `aside` are drawn slightly apart, because those of equal cost
  would cover each other.

  Returns:
    The rows of each series, with the columns `at_x` and `at_y`.
  """
  axes.set(xscale="log", yscale="log")
  axes.margins(0.1)
  rows = rows[rows[[x, y]].notna().all(axis=1)]
  at_x = rows[x].astype(float)
  names = list(dict.fromkeys(rows[aside]))
  place = rows[aside].map(names.index) - (len(names) - 1) / 2
  step = max(at_x.max() / at_x.min(), 2.0) ** 0.02
  rows = rows.assign(at_x=at_x * step**place, at_y=positive(rows[y]))
  drawn = [s for _, s in rows.sort_values("at_x").groupby(by, sort=False)]
  for series in drawn:
    look = {"color": series.color.iloc[0], "marker": series.marker.iloc[0]}
    deviation = series[f"{y}_sd"].astype(float)
    axes.errorbar(series.at_x, series.at_y, deviation, **look, **_MARKER)
    for row in series.itertuples():
      axes.text(row.at_x, row.at_y, f"{row.nfe}", **_NUMBER)
  return drawn


def series_labels(drawn: Sequence[pd.DataFrame], point: int) -> list[Label]:
  """Returns a label for each series of `lines`, at its first or last point."""
  ends = [series.iloc[point] for series in drawn]
  return [Label(row.at_x, row.at_y, row.series, row.color) for row in ends]


def ranking(axes: Axes, rows: pd.DataFrame, by: str, y: str) -> None:
  """Draws scores as numbered markers, one line for each value of a column.

  The horizontal axis becomes logarithmic. Where the values of the column `by`
  all differ, the scores `y` stand beside their markers.
  """
  names = list(dict.fromkeys(rows[by]))
  axes.set_xscale("log")
  axes.margins(x=0.15)
  scored = rows[rows[y].notna()]
  # Rows of one line stand one below the other, so that none is covered.
  count = scored.groupby(by)[by].transform("size")
  aside = (scored.groupby(by).cumcount() + 0.5) / count - 0.5
  scored = scored.assign(
    place=scored[by].map(names.index) + 0.7 * aside,
    at=positive(scored[y]),
    sd=scored[f"{y}_sd"],
    score=scored[y],
  )
  for row in scored.itertuples():
    look = {"color": row.color, "marker": row.marker, **_MARKER}
    axes.errorbar(row.at, row.place, xerr=row.sd or math.nan, **look)
    axes.text(row.at, row.place, f"{row.nfe}", **_NUMBER)
  if scored[by].is_unique:
    beside = {"xytext": (9, 0), "textcoords": "offset points", "va": "center"}
    for row in scored.itertuples():
      axes.annotate(short(row.score), (row.at, row.place), **beside)
  known = set(scored[by])
  texts = [name if name in known else f"{name} (no scores)" for name in names]
  axes.set_yticks(range(len(names)), texts)
  axes.set_ylim(len(names) - 0.4, -0.6)


def finish(axes: Axes, **names: str) -> None:
  """Writes `title`, `xlabel` and `ylabel` when all else has been drawn.

  Ticks of logarithmic axes become plain numbers: `0.0002`, `1,000`.
  """
  axes.set(**names)
  for axis in (axes.xaxis, axes.yaxis):
    if axis.get_scale() == "log":
      low, high = sorted(axis.get_view_interval())
      decades = math.log10(high / low)
      ticks = next(ticks for most, ticks in _TICKS.items() if decades < most)
      plain = lambda value, _: f"{value:,.7f}".rstrip("0").rstrip(".")
      axis.set_major_locator(LogLocator(subs=ticks))
      axis.set_major_formatter(FuncFormatter(plain))
      axis.set_minor_formatter(NullFormatter())


def legend(axes: Axes) -> None:
  """Draws the legend beside the axes, where it covers nothing."""
  if axes.get_legend_handles_labels()[1]:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def place_labels(axes: Axes, labels: Sequence[Label]) -> None:
  """Writes labels near their points, where they cover nothing.

  The first labels come nearest to their points; a label for which there is no
  room is left out.
  """
  import textalloc  # imports pyplot

  if not labels:
    return
  xs, ys, texts, colors = map(list, zip(*labels, strict=True))
  drawn = [path for path in _paths(axes) if len(path)]
  marks = np.concatenate([*drawn, np.stack([xs, ys], 1)])
  textalloc.allocate(
    axes,
    xs,
    ys,
    texts,
    x_scatter=marks[:, 0],
    y_scatter=marks[:, 1],
    x_lines=[path[:, 0] for path in drawn if len(path) > 1],
    y_lines=[path[:, 1] for path in drawn if len(path) > 1],
    textsize=8,
    textcolor=colors,
    linecolor=GREY,
    linewidth=0.5,
    min_distance=0.014,
    max_distance=0.3,
    nbr_candidates=400,
    draw_all=False,
    zorder=6,
  )


def _paths(axes: Axes) -> list[np.ndarray]:
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
