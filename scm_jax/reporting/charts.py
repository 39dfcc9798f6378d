"""The charts of many runs: against compute, against size, and of a sweep."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from scm_jax.reporting import chart_parts, published, titles
from scm_jax.reporting.chart_parts import Label, Page

COMPUTE = "effective sampling compute: billions of parameters × evaluations"
TRAINING = "network evaluations in training"


class Panel(NamedTuple):
  """What one chart shows: runs scored on one dataset in one feature space."""

  dataset: str
  space: str
  rows: pd.DataFrame

  @property
  def title(self) -> str:
    """Returns `digits: Fréchet distance, classifier features`."""
    dataset = titles.dataset(self.dataset)
    return ": ".join(filter(None, (dataset, titles.quantity(self.space))))


def panels(rows: pd.DataFrame, spaces: Sequence[str]) -> list[Panel]:
  """Returns a panel for each dataset and feature space with scores."""
  rank = rows.objective.map(titles.rank)
  rows = rows.assign(rank=rank).sort_values(["rank", "nfe"], kind="stable")
  return [
    Panel(str(dataset), space, scored)
    for dataset, mine in rows.groupby("dataset", sort=False)
    for space in spaces
    if len(scored := mine[mine[f"fd_{space}"].notna()])
  ]


@chart_parts.styled
def draw_compute(panels: Sequence[Panel], results: pd.DataFrame) -> bytes:
  """Draws `quality_compute.png`: distance against effective sampling compute.

  This is figure 1 of arXiv:2410.11081. The panels stand one above the other.
  Published results, which may be empty, share the axes only where they are in
  the same features; elsewhere they stand beside them.
  """
  shared = [f"fd_{panel.space}" in results for panel in panels]
  apart = len(results) and not all(shared)
  columns = 2 if apart else 1
  page = Page(8.5 * columns, 5.0 * len(panels))
  grid = page.figure.subplots(len(panels), columns, squeeze=False)
  for panel, (axes, *_) in zip(panels, grid, strict=True):
    theirs = _drawable(results, panel.space)
    origin = " (this project)" if len(theirs) else ""
    labels = _our_rows(axes, panel, "effective_compute", origin)
    labels += _published_rows(axes, theirs, f"fd_{panel.space}")
    page.label(axes, labels)
    beside = f"; published: {published.title(results)}" if len(theirs) else ""
    chart_parts.finish(axes, title=panel.title + beside, xlabel=COMPUTE)
  for axes in grid[1:, 1:].flat:
    axes.set_axis_off()
  for axes in grid[:1, 1:].flat:
    theirs = _drawable(results, "inception")
    page.label(axes, _published_rows(axes, theirs, "fd_inception"))
    title = f"{published.title(results)}, FID. Other data and features"
    chart_parts.finish(axes, title=f"Published: {title}", xlabel=COMPUTE)
  return page.png()


def legend_entries(axes: Axes, rows: pd.DataFrame, origin: str = "") -> None:
  """Adds the rows' objectives to the legend, with `origin` behind each."""
  for look in titles.appearances(rows.objective.dropna()).values():
    name = look.label + origin
    axes.plot([], [], look.marker, color=look.color, ms=8, label=name)


def _our_rows(axes: Axes, panel: Panel, x: str, origin: str) -> list[Label]:
  """Draws a panel's rows; those that are on no line are small and hollow."""
  y = f"fd_{panel.space}"
  rows = panel.rows[panel.rows[x].notna()]
  rows = rows.assign(**{y: chart_parts.positive(rows[y])})
  shown = rows[rows.in_series]
  drawn = chart_parts.lines(axes, shown, x, y, "series", "objective")
  legend_entries(axes, shown, origin)
  others = rows[~rows.in_series]
  if len(others):
    xs = others[x].astype(float)
    look = {"facecolors": "white", "edgecolors": list(others.color)}
    axes.scatter(xs, others[y], s=20, label="other settings", **look)
  chart_parts.legend(axes)
  return chart_parts.series_labels(drawn, 0)


def _published_rows(axes: Axes, results: pd.DataFrame, y: str) -> list[Label]:
  """Draws published results by series; returns labels, the best's first."""
  axes.set(xscale="log", yscale="log")
  order = [*published.SERIES, *results.series]
  results = results.assign(place=results.series.map(order.index))
  results, labels = results.sort_values("place"), []
  for name, series in results.groupby("series", sort=False):
    color, style = published.SERIES.get(str(name), published.OTHER)
    series = series.sort_values("effective_compute")
    xs, ys = series.effective_compute, series[y]
    axes.plot(xs, ys, style, color=color, ms=5, mew=0, lw=1.0, label=name)
    places = zip(xs, ys, series.label, strict=True)
    labels += [Label(*place, color) for place in places if place[2]]
  chart_parts.legend(axes)
  return sorted(labels, key=lambda label: label.y)


def _drawable(results: pd.DataFrame, space: str) -> pd.DataFrame:
  """Returns the published results that have a place in a chart."""
  if f"fd_{space}" not in results:
    return results[:0]
  known = results[["effective_compute", f"fd_{space}"]].notna().all(axis=1)
  return results[known & (results.series != "")]


@chart_parts.styled
def draw_training(panels: Sequence[Panel]) -> bytes:
  """Draws `quality_training.png`: distance against the budget of the training.

  The budget is the number of network evaluations in training, for all samples
  together.
  """
  page = Page(8.5, 5.0 * len(panels))
  grid = page.figure.subplots(len(panels), 1, squeeze=False)
  for panel, (axes,) in zip(panels, grid, strict=True):
    page.label(axes, _our_rows(axes, panel, "training_evaluations", ""))
    chart_parts.finish(axes, title=panel.title, xlabel=TRAINING)
  return page.png()


@chart_parts.styled
def draw_sizes(panels: Sequence[Panel]) -> bytes:
  """Draws `size.png`: distance, and its ratio to the teacher's, by size.

  This is figure 6 of arXiv:2410.11081: mean and deviation over seeds.
  """
  page = Page(13.0, 4.8 * len(panels))
  grid = page.figure.subplots(len(panels), 2, squeeze=False)
  for panel, (left, right) in zip(panels, grid, strict=True):
    rows, space = panel.rows[panel.rows.in_series], panel.space
    teacher = rows.objective.map(titles.is_teacher).astype(bool)
    full = rows[~teacher | (rows.nfe == rows.nfe[teacher].max())]
    page.label(left, size_axes(left, full, f"fd_{space}"))
    page.label(right, size_axes(right, rows[~teacher], f"ratio_{space}"))
    left.set_title(panel.title)
    right.set_title("Ratio to the teacher's distance")
  return page.png()


def size_axes(axes: Axes, rows: pd.DataFrame, y: str) -> list[Label]:
  """Draws a score against parameters, and returns a label for each series.

  A line at 1 shows where a ratio to the teacher's distance is that of an equal.
  """
  rows = rows[rows.params.notna() & rows[y].notna()] if y in rows else rows[:0]
  if not len(rows):
    text = "nothing to show: see the notes"
    axes.text(0.3, 0.5, text, color=chart_parts.GREY)
    return []
  if y.startswith("ratio"):
    axes.axhline(1.0, color=chart_parts.GREY, linestyle="--", lw=1.0, zorder=1)
  drawn = chart_parts.lines(axes, rows, "params", y, "series", "series")
  axes.margins(x=0.15)
  chart_parts.finish(axes, xlabel="parameters")
  return chart_parts.series_labels(drawn, -1)


@chart_parts.styled
def draw_ranking(rows: pd.DataFrame, y: str) -> bytes:
  """Draws the picture of a sweep's table, a line for each label."""
  page = Page(9, 1.3 + 0.22 * len(rows))
  axes = page.figure.subplots()
  chart_parts.ranking(axes, rows, "label", y)
  legend_entries(axes, rows)
  chart_parts.legend(axes)
  x = titles.quantity(y.removeprefix("fd_"))
  chart_parts.finish(axes, xlabel=f"{x}; in the markers: network evaluations")
  return page.png()
