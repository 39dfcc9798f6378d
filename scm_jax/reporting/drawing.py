"""What the charts share: a page measured in inches, markers, axes, series."""

import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from scm_jax.metrics import charts
from scm_jax.reporting.summary import Row

if TYPE_CHECKING:
  from matplotlib.axes import Axes

GREY = charts.GREY
SPACES = {"inception": "FID", "dinov2": "FD-DINOv2"}
# Of the datasets that come with the package; others keep their names.
DATASETS = {
  "scm_digits": "digits",
  "scm_mnist": "MNIST",
  "cifar10": "CIFAR-10",
  "imagenet64": "ImageNet 64×64",
  "imagenet512": "ImageNet 512×512",
  "imagenet512_latents": "ImageNet 512×512 latents",
}
_FINE = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)  # ticks of part of a decade
_AREA = 115  # of a marker that holds three digits, points squared


class Panel(NamedTuple):
  """What one pair of axes shows: runs scored alike."""

  dataset: str
  space: str
  rows: tuple[Row, ...]

  @property
  def title(self) -> str:
    """`digits, classifier features`."""
    name = SPACES.get(self.space, f"{self.space} features")
    return ", ".join(filter(None, (dataset_name(self.dataset), name)))

  @property
  def looks(self) -> dict[str, charts.Style]:
    """How its objectives are drawn."""
    return charts.styles([{"objective": row.objective} for row in self.rows])

  @property
  def quantity(self) -> str:
    """What its distances are called."""
    return SPACES.get(self.space, f"Fréchet distance, {self.space} features")


def panels(rows: Sequence[Row], spaces: Sequence[str]) -> list[Panel]:
  """One for each dataset and feature space in which something is scored."""
  datasets = dict.fromkeys(row.dataset for row in rows)
  found = []
  for dataset in datasets:
    mine = tuple(row for row in rows if row.dataset == dataset)
    for space in spaces:
      scored = tuple(row for row in mine if space in row.fd)
      if scored:
        found.append(Panel(dataset, space, scored))
  return found


def dataset_name(dataset: str) -> str:
  """The name as it is written."""
  return DATASETS.get(dataset, dataset)


class Page:
  """A figure whose axes are placed in inches, from its top left corner."""

  def __init__(self, width: float, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    self._size = width, height
    self.figure = Figure((width, height), dpi=130, facecolor="white")
    FigureCanvasAgg(self.figure)

  def axes(self, left: float, top: float, wide: float, tall: float) -> "Axes":
    """Axes of a size, at a place."""
    width, height = self._size
    place = left / width, 1 - (top + tall) / height
    return self.figure.add_axes((*place, wide / width, tall / height))

  def text(self, left: float, top: float, words: str, **style: Any) -> None:
    """Words at a place."""
    width, height = self._size
    self.figure.text(left / width, 1 - top / height, words, **style)

  def png(self) -> bytes:
    """The picture. The same figures give the same bytes."""
    data = io.BytesIO()
    self.figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def series(rows: Iterable[Row]) -> dict[str, list[Row]]:
  """Rows that lines go through, by series: by objective, few steps first."""
  found: dict[str, list[Row]] = {}
  for row in rows:
    if row.shown:
      found.setdefault(row.series, []).append(row)
  order = {"sct": 1, "scd": 2}

  def place(name: str) -> tuple:
    row = found[name][0]
    return order.get(row.objective, 0), row.nfe or 0

  return {name: found[name] for name in sorted(found, key=place)}


def marker(
  axes: "Axes", x: float, y: float, style: charts.Style, words: str
) -> None:
  """A marker with a few letters in it."""
  small = len(words) > 2
  axes.scatter(
    [x], [y], s=_AREA * (1.5 if small else 1), color=style.color,
    marker=style.marker, edgecolors="white", linewidths=0.8, zorder=4,
  )  # fmt: skip
  axes.annotate(
    words, (x, y), size=5.5 if small else 6.5, weight="bold", color="white",
    ha="center", va="center_baseline", zorder=5,
  )  # fmt: skip


def bar(
  axes: "Axes", x: float, y: float, sd: float, style: charts.Style
) -> None:
  """An error bar of a standard deviation."""
  low, high = bar_ends(y, sd)
  axes.errorbar(
    [x], [y], [[y - low], [high - y]], color=style.color, lw=1.2, capsize=2.5,
    zorder=3,
  )  # fmt: skip


def bar_ends(y: float, sd: float) -> tuple[float, float]:
  """Ends of an error bar; the lower one is kept on a logarithmic axis."""
  return max(y - sd, y * 0.1), y + sd


def legend(axes: "Axes", columns: int = 4) -> float:
  """Above the axes, so that it covers nothing.

  Returns:
    The distance between the axes and their title that it needs, in points.
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


def logarithmic(axes: "Axes", name: str, values: Iterable[float]) -> None:
  """A logarithmic axis with a margin around positive values.

  Ticks are labelled with plain numbers, at 1, 2 and 5 where few decades show.
  """
  from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

  known = [value for value in values if value > 0]
  low, high = (min(known), max(known)) if known else (1.0, 1.0)
  margin = max((high / low) ** 0.09, 1.35 if name == "x" else 1.12)
  getattr(axes, f"set_{name}scale")("log")
  getattr(axes, f"set_{name}lim")(low / margin, high * margin)
  axis = axes.xaxis if name == "x" else axes.yaxis
  decades = math.log10(high * margin / low * margin)
  if decades < 0.7:
    axis.set_major_locator(LogLocator(subs=_FINE))
  elif decades < 2.5:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axis.set_major_formatter(FuncFormatter(_plain))
  axis.set_minor_formatter(NullFormatter())
  axis.grid(True, which="major", color="#E6E6E6", zorder=0)


def aside(axes: "Axes", share: float) -> float:
  """The factor that moves a point by a share of a logarithmic x axis."""
  low, high = axes.get_xlim()
  return (high / low) ** share


def finish(axes: "Axes", title: str, x: str, y: str, pad: float = 8) -> None:
  """Names, the title `pad` points above the axes, and a light frame."""
  for side in ("top", "right"):
    axes.spines[side].set_visible(False)
  for side in ("left", "bottom"):
    axes.spines[side].set_color("#BBBBBB")
  axes.set_axisbelow(True)
  axes.tick_params(labelsize=9, colors="#333333")
  axes.set_xlabel(x, size=9.5)
  axes.set_ylabel(y, size=9.5)
  axes.set_title(title, size=11, loc="left", pad=pad)


def _plain(value: float, _: Any) -> str:
  """A tick as a plain number: 0.0002, 0.5, 20, 1,000."""
  if value >= 1000:
    return f"{value:,.0f}"
  return f"{value:.6f}".rstrip("0").rstrip(".") or f"{value:g}"
