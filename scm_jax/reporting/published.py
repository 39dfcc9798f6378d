"""Figures that others published, from a CSV with the source of every row."""

import csv
import importlib.resources
import io
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

from scm_jax import spelling
from scm_jax.errors import ConfigError, UserError

TITLES = {
  "imagenet512": "ImageNet 512×512",
  "imagenet64": "ImageNet 64×64",
  "cifar10": "CIFAR-10",
}
NONE = "none"
# Which of a row's distances those of a feature space may stand beside.
COLUMNS = {"inception": "fid", "dinov2": "fdd"}
_NUMBERS = ("nfe", "params_millions", "fid", "fdd")
_WORDS = ("dataset", "method", "series", "label", "source", "note")


class Figure(NamedTuple):
  """A published figure.

  Attributes:
    dataset: a key of `TITLES`, or another name.
    method: and the size of its network.
    series: of the chart; without one a row is in tables alone.
    label: beside its point, if any.
    nfe: network evaluations for one image, guidance included.
    params_millions: parameters of the network that samples, in millions.
    fid, fdd: Fréchet distances in the features of Inception-v3 and DINOv2.
    source: where it was read.
    note: what else to know.
  """

  dataset: str
  method: str
  series: str
  label: str
  nfe: float | None
  params_millions: float | None
  fid: float | None
  fdd: float | None
  source: str
  note: str

  @property
  def compute(self) -> float | None:
    """Parameters in billions times evaluations; ours to compute, not theirs."""
    if self.nfe is None or self.params_millions is None:
      return None
    return self.params_millions / 1000 * self.nfe


def load(name: str) -> list[Figure]:
  """The figures of one dataset, or those in a file of the same columns.

  Args:
    name: a key of `TITLES`, a CSV file, or `none`.

  Raises:
    ConfigError: there is no such set.
    UserError: the file cannot be read, or is not such a table.
  """
  if name == NONE:
    return []
  if name in TITLES:
    package = importlib.resources.files("scm_jax.reporting")
    text = package.joinpath("published.csv").read_text(encoding="utf-8")
    return [row for row in parse(text, "published.csv") if row.dataset == name]
  if not name.endswith(".csv"):
    known = (*TITLES, NONE)
    raise ConfigError(
      f"--published={name}: {spelling.hint(name, known)}, or a .csv file"
    )
  try:
    with open(name, encoding="utf-8", newline="") as file:
      return parse(file.read(), name)
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(f"cannot read {name}: {reason}") from error


def parse(text: str, name: str | os.PathLike[str]) -> list[Figure]:
  """The rows of a CSV with a head; empty numbers are None.

  Raises:
    UserError: a column is missing or a number is none.
  """
  reader = csv.DictReader(io.StringIO(text))
  if lacking := {"method", *_NUMBERS[:3]} - set(reader.fieldnames or ()):
    raise UserError(f"{name} has no column {sorted(lacking)[0]!r}")
  return [_figure(row, f"{name}, line {reader.line_num}") for row in reader]


def title(figures: Sequence[Figure]) -> str:
  """The dataset's name as it is written."""
  dataset = figures[0].dataset
  return TITLES.get(dataset, dataset)


def _figure(row: dict[str, str | None], place: str) -> Figure:
  numbers = {name: _number(row.get(name), name, place) for name in _NUMBERS}
  words = {name: (row.get(name) or "").strip() for name in _WORDS}
  return Figure(**words, **numbers)  # pyrefly: ignore[bad-argument-type]


def _number(text: str | None, name: str, place: str) -> float | None:
  if not (text or "").strip():
    return None
  try:
    number = float(text or "")
  except ValueError:
    number = math.nan
  if not (math.isfinite(number) and number > 0):
    raise UserError(f"{place}: {name} is {text!r}; it must be positive")
  return number
