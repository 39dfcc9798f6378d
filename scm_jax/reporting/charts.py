"""Charts of scores: against compute, against size, and as a ranking."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from scm_jax.reporting import (
  axes as drawing,
)
from scm_jax.reporting import (
  objectives,
  published,
  titles,
)
from scm_jax.reporting.axes import Label, Page

if TYPE_CHECKING:
  from matplotlib.axes import Axes

COMPUTE = "effective sampling compute: billions of parameters × evaluations"
# Feature spaces in which results are published.
_SHARED = ("inception", "dinov2")


class Panel(NamedTuple):
  """What one chart shows: runs scored on one dataset in one feature space."""

  dataset: str
  space: str
  rows: pd.DataFrame

  @property
  def title(self) -> str:
    """Returns `digits, classifier features`."""
    name = titles.distance(self.space)
    if name.startswith("FD "):
      name = f"{self.space} features"
    return ", ".join(filter(None, (titles.dataset(self.dataset), name)))


def panels(rows: pd.DataFrame, spaces: Sequence[str]) -> list[Panel]:
  """Returns a panel for each dataset and feature space with scores."""
  found = []
  for dataset, mine in rows.groupby("dataset", sort=False):
    for space in spaces:
      scored = mine[mine[f"fd_{space}"].notna()]
      if len(scored):
        found.append(Panel(str(dataset), space, by_series(scored)))
  return found


def by_series(rows: pd.DataFrame) -> pd.DataFrame:
  """Returns rows by objective and number of evaluations, as legends are."""
  keys = rows.assign(rank=rows.objective.map(objectives.rank))
  return rows.loc[keys.sort_values(["rank", "nfe"], kind="stable").index]


def draw_compute(panels: Sequence[Panel], results: pd.DataFrame) -> bytes:
  """Draws `quality_compute.png`: distance against effective sampling compute.

  This is figure 1 of arXiv:2410.11081. Published results share the axes only
  where they are in the same features; elsewhere they stand beside them.

  Args:
    panels: our runs, one above the other.
    results: published results on one dataset; may be empty.
  """
  apart = len(results) and any(p.space not in _SHARED for p in panels)
  count = max(len(panels), 1)
  page = Page(14.0 if apart else 7.5, count * (6.4 if len(results) else 5.7))
  grid = page.figure.subplots(count, 2 if apart else 1, squeeze=False)
  for extra in grid[:, 1:].flat:
    extra.set_axis_off()
  for panel, (axes, *_) in zip(panels, grid, strict=False):
    theirs = _drawable(results, panel.space) if panel.space in _SHARED else None
    _compute_panel(page, axes, panel, theirs)
  if apart:
    grid[0, 1].set_axis_on()
    _published_panel(page, grid[0, 1], results)
  return page.png()


def compute_axes(
  axes: "Axes", rows: pd.DataFrame, y: str, by: str
) -> list[pd.DataFrame]:
  """Draws rows of our own against compute; returns the rows of each line."""
  drawn = drawing.lines(axes, rows, "effective_compute", y, by, "objective")
  legend_entries(axes, rows)
  return drawn


def legend_entries(axes: "Axes", rows: pd.DataFrame) -> None:
  """Adds the rows' objectives to the legend."""
  for look in objectives.appearances(rows.objective.dropna()).values():
    axes.plot([], [], look.marker, color=look.color, ms=8, label=look.label)


def _compute_panel(
  page: Page, axes: "Axes", panel: Panel, results: pd.DataFrame | None
) -> None:
  """Draws our runs, and published results in the same features if any."""
  y = f"fd_{panel.space}"
  ours = panel.rows[panel.rows.effective_compute.notna()]
  shown, others = ours[ours.in_series], ours[~ours.in_series]
  every = ours if results is None else pd.concat([ours, results])
  drawing.logarithmic(axes, "x", every.effective_compute.astype(float))
  ends = [*drawing.heights(every, y), *pd.concat(drawing.bar_ends(shown, y))]
  drawing.logarithmic(axes, "y", ends)
  labels, title = [], panel.title
  if results is not None and len(results):
    labels = _draw_published(axes, results, y)
    title = f"{title}; published: {published.title(results)}"
  mine = compute_axes(axes, shown, y, "series")
  if len(others):
    axes.scatter(
      others.effective_compute.astype(float),
      drawing.heights(ours, y)[others.index],
      s=20,
      facecolors="white",
      edgecolors=list(others.color),
      linewidths=0.9,
      zorder=2.5,
      label="other settings",
    )
  pad = drawing.legend(axes, 4)
  page.label(axes, [*drawing.series_labels(mine, 0, "bold"), *labels])
  drawing.finish(axes, title, COMPUTE, titles.quantity(panel.space), pad)


def _published_panel(page: Page, axes: "Axes", results: pd.DataFrame) -> None:
  """Draws published results alone, by FID."""
  drawable = _drawable(results, "inception")
  drawing.logarithmic(axes, "x", drawable.effective_compute)
  drawing.logarithmic(axes, "y", drawable.fd_inception)
  page.label(axes, _draw_published(axes, drawable, "fd_inception"))
  pad = drawing.legend(axes, 3)
  title = f"Published: {published.title(results)}. Other data and features"
  drawing.finish(axes, title, COMPUTE, "FID, as published", pad)


def _draw_published(axes: "Axes", results: pd.DataFrame, y: str) -> list[Label]:
  """Draws published results by series; returns labels, the best's first."""
  order = [*published.SERIES, *results.series]
  places = results.assign(place=results.series.map(order.index))
  labels = []
  for name, series in places.sort_values("place").groupby("series", sort=False):
    look = published.SERIES.get(str(name), published.OTHER)
    series = series.sort_values("effective_compute")
    axes.plot(
      series.effective_compute,
      series[y],
      look.marker + "-" * look.joined,
      color=look.color,
      ms=5,
      mew=0,
      lw=1.0,
      alpha=0.8,
      label=name,
      zorder=1.8,
    )
    labels += [
      Label(row["effective_compute"], row[y], row["label"], look.color)
      for row in series[series.label != ""].to_dict("records")
    ]
  return sorted(labels, key=lambda label: label.y)


def _drawable(results: pd.DataFrame, space: str) -> pd.DataFrame:
  """Returns the published results that have a place in a chart."""
  known = results[["effective_compute", f"fd_{space}"]].notna().all(axis=1)
  return results[known & (results.series != "")]


def draw_sizes(panels: Sequence[Panel]) -> bytes:
  """Draws `size.png`: distance, and its ratio to the teacher's, by size.

  This is figure 6 of arXiv:2410.11081: mean and deviation over seeds.
  """
  count = max(len(panels), 1)
  page = Page(13.0, count * 5.2)
  grid = page.figure.subplots(count, 2, squeeze=False)
  for panel, (left, right) in zip(panels, grid, strict=False):
    rows, space = panel.rows[panel.rows.in_series], panel.space
    teacher = rows.objective.map(objectives.is_teacher)
    full = rows[~teacher | (rows.nfe == rows.nfe[teacher].max())]
    labels = size_axes(left, full, f"fd_{space}")
    drawing.finish(left, panel.title, "parameters", titles.quantity(space))
    page.label(left, labels)
    labels = size_axes(right, rows[~teacher], f"ratio_{space}", reference=True)
    title = f"Ratio to the teacher: {panel.title}"
    drawing.finish(right, title, "parameters", "distance / teacher's distance")
    page.label(right, labels)
  return page.png()


def size_axes(
  axes: "Axes", rows: pd.DataFrame, y: str, reference: bool = False
) -> list[Label]:
  """Draws a score against parameters.

  Args:
    axes: empty axes.
    rows: a flat table with the column `series`.
    y: column of the score.
    reference: whether to draw the line at 1, where a student is as good as its
      teacher.

  Returns:
    A label for each series.
  """
  rows = rows.reindex(columns=[*rows, *({y} - set(rows))])
  rows = rows[rows.params.notna() & (rows[y] > 0)]
  if not len(rows):
    axes.text(
      0.5,
      0.5,
      "nothing to show: see the notes",
      size=9,
      ha="center",
      color=drawing.GREY,
      transform=axes.transAxes,
    )
    axes.set(xticks=[], yticks=[])
    return []
  drawing.logarithmic(axes, "x", rows.params.astype(float))
  ends = [*pd.concat(drawing.bar_ends(rows, y)), *([0.97, 1.03] * reference)]
  drawing.logarithmic(axes, "y", ends)
  if reference:
    axes.axhline(1.0, color=drawing.GREY, linestyle="--", lw=1.0, zorder=1)
  left, right = axes.get_xlim()
  axes.set_xlim(left, right * (right / left) ** 0.13)  # room for the labels
  drawn = drawing.lines(axes, rows, "params", y, "series", "series")
  return drawing.series_labels(drawn, -1)


def ranking_axes(
  axes: "Axes", rows: pd.DataFrame, by: str, y: str, detail: bool = False
) -> None:
  """Draws a score as numbered markers on a logarithmic axis, a line for each.

  Args:
    axes: empty axes.
    rows: a flat table; rows without a score get a line that says so.
    by: column of the lines' names.
    y: column of the score.
    detail: whether to draw a bar to each marker and write the score beside it.
  """
  names = list(dict.fromkeys(rows[by]))
  scored = rows[rows[y].notna()]
  low, high = drawing.bar_ends(scored, y)
  drawing.logarithmic(axes, "x", [*low, *(high * (1.6 if detail else 1.0))])
  left = axes.get_xlim()[0]
  values = drawing.heights(scored, y)
  for index, row in scored.iterrows():
    place, value = names.index(row[by]), values[index]
    start = left if detail else low[index]
    width = 2.5 if detail else 1.2
    axes.hlines(place, start, value, color=row.color, lw=width)
    axes.hlines(place, value, high[index], color=row.color, lw=1.2)
    drawing.numbered_marker(axes, value, place, row)
    if detail:
      axes.annotate(
        drawing.short(row[y]),
        (high[index], place),
        xytext=(9, 0),
        textcoords="offset points",
        size=9.5,
        va="center",
      )
  for place, name in enumerate(names):
    if name not in set(scored[by]):
      axes.text(
        0.02,
        place,
        "no scores",
        size=8,
        color=drawing.GREY,
        transform=axes.get_yaxis_transform(),
        va="center",
      )
  axes.set_yticks(range(len(names)), names)
  axes.tick_params(axis="y", length=0)
  axes.set_ylim(len(names) - 0.4, -0.6)


def draw_ranking(rows: pd.DataFrame, by: str, y: str) -> bytes:
  """Draws the picture of a sweep's table, a line for each value of a column."""
  page = Page(9, 1.8 + 0.28 * rows[by].nunique())
  axes = page.figure.subplots()
  ranking_axes(axes, rows, by, y)
  legend_entries(axes, rows)
  space = y.removeprefix("fd_")
  pad = drawing.legend(axes)
  x = f"{titles.quantity(space)}; in the markers: network evaluations"
  drawing.finish(axes, "", x, pad=pad)
  return page.png()
