"""The table of a sweep as a picture: a line for each row, with error bars."""

import io
import math
from collections.abc import Sequence
from typing import Any

from scm_jax import files
from scm_jax.metrics import charts
from scm_jax.sweeping import table

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#333333")


def draw(rows: Sequence[table.Row]) -> bytes:
  """A PNG of the main distance of every point, a color for each NFE.

  Args:
    rows: of `table.gather`, at least one of them scored.
  """
  from matplotlib.figure import Figure
  from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

  score = table.distances(rows)[0]
  labels = list(dict.fromkeys(map(table.label, rows)))
  counts = sorted({row["nfe"] for row in rows if row["nfe"] != ""})
  height = 1.6 + 0.28 * len(labels)
  figure = Figure(figsize=(9, height), layout="constrained", dpi=110)
  axes = figure.add_subplot()
  for number, nfe in enumerate(counts):
    mine = [r for r in rows if r["nfe"] == nfe and finite(r[score])]
    axes.errorbar(
      [row[score] for row in mine],
      [labels.index(table.label(row)) for row in mine],
      xerr=[row.get(f"{score}_sd") or 0.0 for row in mine],
      fmt="o",
      color=_COLORS[number % len(_COLORS)],
      markersize=5,
      capsize=2,
      label=f"{nfe} NFE",
    )
  for place, label in enumerate(labels):
    if not any(finite(r[score]) for r in rows if table.label(r) == label):
      axes.text(0.02, place, "no scores", size=8, color=charts.GREY,
                transform=axes.get_yaxis_transform(), va="center")  # fmt: skip
  axes.set_yticks(range(len(labels)), labels, size=8)
  axes.set_ylim(len(labels) - 0.5, -0.5)
  axes.set_xscale("log")
  axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
  axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
  axes.xaxis.set_minor_formatter(NullFormatter())
  axes.grid(True, color="#E6E6E6")
  axes.set_axisbelow(True)
  axes.set_xlabel(f"{score.replace('fd_', 'Fréchet distance, ')} features")
  axes.legend(frameon=False, fontsize=8, ncols=len(counts), loc="lower left",
              bbox_to_anchor=(0, 1))  # fmt: skip
  return _png(figure)


def finite(value: Any) -> bool:
  """Whether a cell holds a number."""
  return isinstance(value, int | float) and math.isfinite(value)


def _png(figure: Any) -> bytes:
  data = io.BytesIO()
  figure.savefig(data, format="png", metadata={"Software": None})
  return data.getvalue()


def write(path: Any, rows: Sequence[table.Row]) -> None:
  """Writes the picture, if there is anything to show."""
  if table.distances(rows):
    files.write_bytes(path, draw(rows))
