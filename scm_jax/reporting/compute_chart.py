"""`quality_compute.png`: distance against effective sampling compute.

As figure 1 of arXiv:2410.11081: billions of parameters times network
evaluations, on a logarithmic axis. Published figures share the axes only where
they are in the same features; elsewhere they stand beside them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scm_jax.reporting import drawing, published
from scm_jax.reporting.drawing import Page, Panel
from scm_jax.reporting.labels import Label, place
from scm_jax.reporting.published import COLUMNS, Figure
from scm_jax.reporting.summary import Row

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_X = "effective sampling compute: billions of parameters × evaluations"
_WIDE, _TALL, _FOOT = 5.6, 4.4, 0.7  # inches
_HEADS = {True: 1.3, False: 0.8}  # with published figures, whose legend is long
_LEFT, _BETWEEN = 0.85, 0.95
_APART = 0.012  # of objectives, in shares of the axis
# Published series: color and marker; ours have others (`metrics.charts`).
_LOOKS = {
  "EDM2": ("#6A3D9A", "s"),
  "EDM": ("#6A3D9A", "s"),
  "sCM's teacher": ("#333333", "s"),
  "sCD, 1 step": ("#56B4E9", "o"),
  "sCD, 2 steps": ("#0072B2", "o"),
  "sCD": ("#0072B2", "o"),
  "sCT, 1 step": ("#F0A868", "D"),
  "sCT, 2 steps": ("#D55E00", "D"),
  "sCT": ("#D55E00", "D"),
  "later few-step": ("#009E73", "^"),
  "ECT": ("#CC79A7", "v"),
  "TCM": ("#B8860B", "P"),
  "GANs, masked and autoregressive": ("#B8860B", "P"),
}
_OTHER = ("#8A8A8A", "X")
# Different methods, sizes or steps, which no line connects.
_SCATTERED = (
  "other diffusion",
  "ECT",
  "TCM",
  "GANs, masked and autoregressive",
  "later few-step",
)


def draw(panels: Sequence[Panel], figures: Sequence[Figure]) -> bytes:
  """The picture as PNG.

  Args:
    panels: what is ours, one above the other.
    figures: published ones of one dataset; may be empty.
  """
  shared = {panel.space: COLUMNS.get(panel.space) for panel in panels}
  apart = bool(figures) and not all(shared.values())
  rows = max(len(panels), 1)
  head = _HEADS[bool(figures)]
  height = rows * (head + _TALL + _FOOT) + 0.1
  extra = _BETWEEN + _WIDE + 1.0 if apart else 1.0
  page = Page(_LEFT + _WIDE + extra, height)
  beside = False
  for index, panel in enumerate(panels):
    top = index * (head + _TALL + _FOOT) + head
    wide = _WIDE if apart else _WIDE + 0.9
    with_ours = figures if shared[panel.space] else ()
    _panel(page.axes(_LEFT, top, wide, _TALL), panel, with_ours)
    if apart and not with_ours and not beside:
      beside = True
      left = _LEFT + _WIDE + _BETWEEN
      _apart(page.axes(left, top, _WIDE + 0.85, _TALL), figures)
  return page.png()


def _panel(axes: "Axes", panel: Panel, figures: Sequence[Figure]) -> None:
  """Our runs, and published ones in the same features."""
  column = COLUMNS.get(panel.space, "fid")
  theirs = _drawable(figures, column)
  ours = [row for row in panel.rows if row.compute]
  points = [(row.compute or 1.0, _height(row, panel)) for row in ours]
  points += [(f.compute or 1.0, getattr(f, column)) for f in theirs]
  drawing.logarithmic(axes, "x", [x for x, _ in points])
  drawing.logarithmic(
    axes, "y", [*(y for _, y in points), *_bar_ends(ours, panel)]
  )
  _published(axes, theirs, column)
  labels = _ours(axes, ours, panel, " (this project)" if theirs else "")
  _others(axes, ours, panel)
  pad = drawing.legend(axes, 3 if theirs else 4)
  place(axes, [*labels, *_labels(theirs, column)])
  beside = f"; published: {published.title(theirs)}" if theirs else ""
  drawing.finish(axes, panel.title + beside, _X, panel.quantity, pad)


def _ours(
  axes: "Axes", ours: Sequence[Row], panel: Panel, whose: str
) -> list[Label]:
  """Draws a line for each series; returns their names, at its first point.

  Students of one size cost the same: objectives are set slightly apart.
  """
  series = drawing.series(ours)
  objectives = list(dict.fromkeys(r[0].objective for r in series.values()))
  labels = []
  for rows in series.values():
    style = panel.looks[rows[0].objective]
    place_ = objectives.index(rows[0].objective) - (len(objectives) - 1) / 2
    shift = drawing.aside(axes, place_ * _APART)
    rows = sorted(rows, key=lambda row: row.compute or 0)
    xs = [(row.compute or 1) * shift for row in rows]
    ys = [_height(row, panel) for row in rows]
    axes.plot(xs, ys, color=style.color, alpha=0.5, lw=1.3, zorder=2)
    for x, y, row in zip(xs, ys, rows, strict=True):
      if sd := row.fd[panel.space].sd:
        drawing.bar(axes, x, y, sd, style)
      drawing.marker(axes, x, y, style, str(row.nfe))
    labels.append(Label(xs[0], ys[0], rows[0].series, style.color, "bold"))
  for objective in objectives:
    style = panel.looks[objective]
    name = style.legend + whose
    axes.plot([], [], style.marker, color=style.color, ms=8, label=name)
  return labels


def _others(axes: "Axes", ours: Sequence[Row], panel: Panel) -> None:
  """Rows with other settings, small and without lines."""
  others = [row for row in ours if not row.shown]
  for row in others:
    style = panel.looks[row.objective]
    axes.plot(
      [row.compute or 1.0], [_height(row, panel)], style.marker, ms=4.5,
      mfc="white", mec=style.color, mew=0.9, alpha=0.75, zorder=2.5,
    )  # fmt: skip
  if others:
    axes.plot(
      [], [], "o", ms=4.5, mfc="white", mec=drawing.GREY,
      label="other settings",
    )  # fmt: skip


def _apart(axes: "Axes", figures: Sequence[Figure]) -> None:
  """Published figures alone, by FID."""
  drawable = _drawable(figures, "fid")
  drawing.logarithmic(axes, "x", [f.compute or 1 for f in drawable])
  drawing.logarithmic(axes, "y", [f.fid or 1 for f in drawable])
  _published(axes, drawable, "fid")
  pad = drawing.legend(axes, 3)
  place(axes, _labels(drawable, "fid"))
  title = f"Published: {published.title(figures)}. Other data and features"
  drawing.finish(axes, title, _X, "FID, as published", pad)


def _published(axes: "Axes", figures: Sequence[Figure], column: str) -> None:
  """Draws published figures, by series."""
  by_series: dict[str, list[Figure]] = {}
  order = list(_LOOKS)
  for figure in sorted(
    figures,
    key=lambda f: order.index(f.series) if f.series in order else len(order),
  ):
    by_series.setdefault(figure.series, []).append(figure)
  for name, members in by_series.items():
    color, shape = _LOOKS.get(name, _OTHER)
    line = "" if name in _SCATTERED else "-"
    members = sorted(members, key=lambda f: f.compute or 0)
    xs = [f.compute or 1.0 for f in members]
    ys = [getattr(f, column) for f in members]
    axes.plot(
      xs, ys, shape + line, color=color, ms=5, mew=0, lw=1.0, alpha=0.8,
      label=name, zorder=1.8,
    )  # fmt: skip


def _drawable(figures: Sequence[Figure], column: str) -> list[Figure]:
  """Those that have a place in a chart."""
  return [f for f in figures if f.series and f.compute and getattr(f, column)]


def _labels(figures: Sequence[Figure], column: str) -> list[Label]:
  """Of the best figures first: where there is no room, others lack theirs."""
  return [
    Label(f.compute or 1.0, getattr(f, column), f.label, color)
    for f in sorted(figures, key=lambda f: getattr(f, column))
    if f.label and (color := _LOOKS.get(f.series, _OTHER)[0])
  ]


def _height(row: Row, panel: Panel) -> float:
  """A row's distance; one of 0, which has no logarithm, below the others."""
  known = [r.fd[panel.space].mean for r in panel.rows]
  least = min((value for value in known if value > 0), default=1.0) / 2
  return max(row.fd[panel.space].mean, least)


def _bar_ends(rows: Sequence[Row], panel: Panel) -> list[float]:
  """Ends of the error bars."""
  found = [(_height(r, panel), r.fd[panel.space].sd) for r in rows if r.shown]
  return [end for y, sd in found if sd for end in drawing.bar_ends(y, sd)]
