"""The charts of a report's picture: ranking, and score against compute.

Each function draws one chart on matplotlib axes that it is given. Objectives
differ in colour (Okabe and Ito's palette, which colour-blind readers can tell
apart) and in shape; the number in a marker is the network evaluations per
image.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scm_jax.metrics.report import main_features

if TYPE_CHECKING:
  from matplotlib.axes import Axes


class Style(NamedTuple):
  """How the runs of one objective are drawn."""

  color: str
  marker: str
  legend: str


_KNOWN = {
  "teacher": Style("#333333", "s", "teacher"),
  "diffusion": Style("#333333", "s", "diffusion"),
  "scd": Style("#0072B2", "o", "sCD"),
  "sct": Style("#D55E00", "D", "sCT"),
}
_SPARE = (("#009E73", "^"), ("#CC79A7", "v"), ("#E69F00", "P"))
GREY = "#6B6B6B"
_MARKER = 300  # area of a marker that holds two digits, points squared


def styles(runs: Sequence[Mapping[str, Any]]) -> dict[str, Style]:
  """A style for every objective among the runs, spare ones for new names."""
  result: dict[str, Style] = {}
  for run in runs:
    name = run["objective"]
    if name not in result:
      color, marker = _SPARE[len(result) % len(_SPARE)]
      result[name] = _KNOWN.get(name, Style(color, marker, name))
  return result


def short(value: float) -> str:
  """A score in about three digits, never in scientific notation."""
  if value >= 100:
    return f"{value:,.0f}"
  return f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def draw_ranking(axes: "Axes", report: Mapping[str, Any]) -> None:
  """The distance of every run on a logarithmic axis, beside the floor."""
  runs, main = report["runs"], main_features(report)
  looks = styles(runs)
  values, floor, limits = _scale(report, main)
  places = range(len(runs))
  if floor is not None:
    axes.axvline(floor, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
    axes.text(
      floor,
      len(runs) - 0.42,
      " real split halves",
      size=9,
      color=GREY,
      ha="left",
      va="center",
    )
  for place, run, value in zip(places, runs, values, strict=True):
    look = looks[run["objective"]]
    axes.hlines(place, limits[0], value, color=look.color, linewidth=2.5)
    _marker(axes, value, place, look, str(run["nfe"]))
    axes.annotate(
      short(run["fd"][main]),
      (value, place),
      xytext=(15, 0),
      textcoords="offset points",
      size=11,
      va="center",
      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
    )
  axes.set_xscale("log")
  axes.set_xlim(limits)
  axes.set_ylim(len(runs) - 0.15, -0.6)
  axes.set_yticks(places, [run["name"] for run in runs], size=11)
  axes.tick_params(axis="y", length=0)
  axes.set_title(
    f"Fréchet distance, {main} features", size=11.5, loc="left", pad=10
  )
  axes.set_xlabel("lower is better", size=10)
  _finish(axes, "x")


def draw_compute(axes: "Axes", report: Mapping[str, Any]) -> None:
  """Distance against effective sampling compute, both logarithmic."""
  runs, main = report["runs"], main_features(report)
  looks = styles(runs)
  values, floor, limits = _scale(report, main)
  compute = np.array([run["effective_compute"] for run in runs])
  if floor is not None:
    axes.axhline(floor, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
  for objective, look in looks.items():
    mine = [i for i, run in enumerate(runs) if run["objective"] == objective]
    mine.sort(key=lambda i: compute[i])
    axes.plot(
      compute[mine], values[mine], color=look.color, alpha=0.45, zorder=2
    )
    for i in mine:
      _marker(axes, compute[i], values[i], look, str(runs[i]["nfe"]))
    axes.plot([], [], look.marker, color=look.color, ms=9, label=look.legend)
  if floor is not None:
    axes.plot([], [], "--", color=GREY, label="real split halves")
  axes.set_xscale("log")
  axes.set_yscale("log")
  axes.set_xlim(compute.min() / 2, compute.max() * 2)
  axes.set_ylim(limits)
  axes.set_xlabel(
    "effective sampling compute: billions of parameters × evaluations", size=10
  )
  axes.set_title(
    "Distance against sampling compute", size=11.5, loc="left", pad=10
  )
  axes.legend(frameon=False, fontsize=10, loc="upper right")
  _finish(axes, "both")


def _scale(
  report: Mapping[str, Any], features: str
) -> tuple[np.ndarray, float | None, tuple[float, float]]:
  """Distances fit for a logarithmic axis, the floor, and the axis limits."""
  exact = np.array([run["fd"][features] for run in report["runs"]])
  floor = report["reference"].get("fd", {}).get(features)
  known = np.append(exact, [] if floor is None else [floor])
  positive = known[known > 0]
  least = positive.min() if positive.size else 1.0
  # A distance of exactly 0 has no logarithm: it is drawn at the left edge.
  values = np.maximum(exact, least / 2)
  most = max(values.max(), least)
  return values, floor or None, (least / 2.2, most * (most / least) ** 0.2 * 2)


def _marker(axes: "Axes", x: float, y: float, look: Style, text: str) -> None:
  """A marker with a number in it."""
  axes.scatter(
    [x],
    [y],
    s=_MARKER,
    color=look.color,
    marker=look.marker,
    edgecolors="white",
    linewidths=1.2,
    zorder=3,
  )
  axes.annotate(
    text,
    (x, y),
    size=8,
    weight="bold",
    color="white",
    ha="center",
    va="center_baseline",
    zorder=4,
  )


def _finish(axes: "Axes", logarithmic: str) -> None:
  """Light frame, and tick labels as plain numbers."""
  from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

  for side in ("top", "right"):
    axes.spines[side].set_visible(False)
  for side in ("left", "bottom"):
    axes.spines[side].set_color("#BBBBBB")
  names = ("x", "y") if logarithmic == "both" else (logarithmic,)
  for name in names:
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = sorted(axis.get_view_interval())
    if high / low < 30:  # a decade or so: label 1, 2 and 5 as well
      axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_formatter(NullFormatter())
    axis.grid(True, which="major", color="#E6E6E6", zorder=0)
  axes.set_axisbelow(True)
  axes.tick_params(labelsize=10, colors="#333333")
