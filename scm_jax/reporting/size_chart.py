"""`size.png`: distance, and its ratio to the teacher's, against model size.

As figure 6 of arXiv:2410.11081. Mean and standard deviation over seeds.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from scm_jax.reporting import drawing
from scm_jax.reporting.drawing import Page, Panel
from scm_jax.reporting.labels import Label, place
from scm_jax.reporting.statistic import Statistic
from scm_jax.reporting.summary import Row

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_X = "parameters, millions"
_WIDE, _TALL, _HEAD, _FOOT = 5.2, 3.9, 0.55, 0.7  # inches
_LEFT, _BETWEEN = 0.85, 0.95
_APART = 0.02  # of neighbouring series, in shares of the axis


def draw(panels: Sequence[Panel]) -> bytes:
  """The picture as PNG: two charts for each panel, one above the other."""
  height = max(len(panels), 1) * (_HEAD + _TALL + _FOOT) + 0.15
  page = Page(_LEFT + 2 * _WIDE + _BETWEEN + 0.3, height)
  for index, panel in enumerate(panels):
    top = index * (_HEAD + _TALL + _FOOT) + _HEAD
    shown = drawing.series(_full_teachers(panel.rows))
    _panel(
      page.axes(_LEFT, top, _WIDE, _TALL),
      panel,
      shown,
      lambda row, panel=panel: row.fd.get(panel.space),
      panel.title,
      panel.quantity,
    )
    right = page.axes(_LEFT + _WIDE + _BETWEEN, top, _WIDE, _TALL)
    students = {k: rows for k, rows in shown.items() if not rows[0].teacher}
    ratios = _panel(
      right,
      panel,
      students,
      lambda row, panel=panel: row.ratio.get(panel.space),
      f"Ratio to the teacher: {panel.title}",
      "distance / that of the teacher",
    )
    _reference(right, ratios)
  return page.png()


def _full_teachers(rows: Sequence[Row]) -> list[Row]:
  """The rows without teachers at fewer evaluations than their most."""
  most = max((row.nfe or 0 for row in rows if row.teacher), default=0)
  return [row for row in rows if not row.teacher or row.nfe == most]


def _panel(
  axes: "Axes",
  panel: Panel,
  shown: dict[str, list[Row]],
  score: Callable[[Row], Statistic | None],
  title: str,
  quantity: str,
) -> list[Statistic]:
  """One chart of a score; returns what it shows."""
  looks = panel.looks
  found = {
    name: sorted(
      ((row.params / 1e6, value) for row in rows
       if row.params and (value := score(row)) and value.mean > 0),
    )
    for name, rows in shown.items()
  }  # fmt: skip
  found = {name: values for name, values in found.items() if values}
  sizes = [size for values in found.values() for size, _ in values]
  _sizes(axes, sizes, len(found) * _APART / 2)
  labels = []
  for index, (name, values) in enumerate(found.items()):
    row = shown[name][0]
    style = looks[row.objective]
    shift = drawing.aside(axes, (index - (len(found) - 1) / 2) * _APART)
    xs, ys = [size * shift for size, _ in values], [v.mean for _, v in values]
    axes.plot(xs, ys, color=style.color, alpha=0.5, lw=1.3, zorder=2)
    for x, (_, value) in zip(xs, values, strict=True):
      if value.sd:
        drawing.bar(axes, x, value.mean, value.sd, style)
      drawing.marker(axes, x, value.mean, style, str(row.nfe))
    labels.append(Label(xs[-1], ys[-1], name, style.color))
  values = [value for series in found.values() for _, value in series]
  drawing.logarithmic(axes, "y", _extent(values))
  drawing.finish(axes, title, _X, quantity)
  place(axes, labels)
  if not values:
    axes.text(
      0.5, 0.5, "nothing to show: see the notes", size=9, ha="center",
      va="center", color=drawing.GREY, transform=axes.transAxes,
    )  # fmt: skip
    axes.set_yticks([])
    axes.set_xticks([])
  return values


def _sizes(axes: "Axes", sizes: Sequence[float], margin: float) -> None:
  """The x axis, with ticks at the sizes there are, and room for words."""
  low, high = min(sizes, default=1.0), max(sizes, default=1.0)
  room = (high / low) ** margin
  drawing.logarithmic(axes, "x", [low / room, high * room])
  left, right = axes.get_xlim()
  axes.set_xlim(left, right * (right / left) ** 0.13)
  ticks: list[float] = []
  for size in sorted(sizes):
    if not ticks or size > ticks[-1] * max(1.1, (high / low) ** 0.06):
      ticks.append(size)
  axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
  axes.set_xticks([], minor=True)


def _extent(values: Sequence[Statistic]) -> list[float]:
  """The ends of all error bars."""
  return [end for v in values for end in drawing.bar_ends(v.mean, v.sd or 0.0)]


def _reference(axes: "Axes", ratios: Sequence[Statistic]) -> None:
  """The line at which a student is as good as its teacher."""
  if ratios:
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.93), max(high, 1.08))
    axes.axhline(1.0, color=drawing.GREY, linestyle="--", lw=1.0, zorder=1)
