"""Results that others published, from a CSV with the source of every row."""

import importlib.resources
import io
from typing import NamedTuple

import numpy as np
import pandas as pd

from scm_jax import errors
from scm_jax.errors import ConfigError, UserError
from scm_jax.reporting import records, titles

DATASETS = ("imagenet512", "imagenet64", "cifar10")
NONE = "none"
_NUMBERS = ("nfe", "params_millions", "fid", "fdd")
_TEXTS = ("dataset", "method", "series", "label", "source", "note")


class Appearance(NamedTuple):
  """How a series of published results is drawn.

  Attributes:
    color: a colour.
    marker: a matplotlib marker.
    joined: whether a line joins its points, which are sizes of one method.
  """

  color: str
  marker: str
  joined: bool = True


SERIES = {
  "EDM2": Appearance("#6A3D9A", "s"),
  "EDM": Appearance("#6A3D9A", "s"),
  "sCM's teacher": Appearance("#333333", "s"),
  "sCD, 1 step": Appearance("#56B4E9", "o"),
  "sCD, 2 steps": Appearance("#0072B2", "o"),
  "sCD": Appearance("#0072B2", "o"),
  "sCT, 1 step": Appearance("#F0A868", "D"),
  "sCT, 2 steps": Appearance("#D55E00", "D"),
  "sCT": Appearance("#D55E00", "D"),
  "later few-step": Appearance("#009E73", "^", joined=False),
  "ECT": Appearance("#CC79A7", "v", joined=False),
  "TCM": Appearance("#B8860B", "P", joined=False),
  "GANs, masked and autoregressive": Appearance("#B8860B", "P", joined=False),
  "other diffusion": Appearance("#8A8A8A", "X", joined=False),
}
OTHER = Appearance("#8A8A8A", "X")


def load(name: str) -> pd.DataFrame:
  """Returns the results on one dataset, or those in a file of a user's own.

  Args:
    name: one of `DATASETS`, the path of a CSV file, or `none`.

  Returns:
    The columns of the file, and those that tables of our own runs have:
    `params`, `effective_compute`, `fd_inception`, `fd_dinov2`. The best come
    first.

  Raises:
    ConfigError: there is no such set.
    UserError: the file cannot be read, or is not such a table.
  """
  if name in (*DATASETS, NONE):
    package = importlib.resources.files("scm_jax.reporting")
    text = package.joinpath("published.csv").read_text(encoding="utf-8")
    table = parse(text, "published.csv")
    return table[table.dataset == name].reset_index(drop=True)
  if not name.endswith(".csv"):
    hint = errors.hint(name, (*DATASETS, NONE))
    raise ConfigError(f"--published={name}: {hint}, or a .csv file")
  try:
    with open(name, encoding="utf-8", newline="") as file:
      return parse(file.read(), name)
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(f"cannot read {name}: {reason}") from error


def parse(text: str, name: str) -> pd.DataFrame:
  """Returns the table of `load` from the text of a CSV file.

  Raises:
    UserError: a column is missing, or a cell that must hold a positive number
      or nothing holds something else.
  """
  try:
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
  except ValueError as error:
    raise UserError(f"{name} is not a CSV table: {error}") from error
  for column in ("method", "fid", "nfe", "params_millions"):
    if column not in table:
      raise UserError(f"{name} has no column {column!r}")
  table = table.reindex(columns=[*_TEXTS, *_NUMBERS], fill_value="")
  table = table.apply(lambda column: column.str.strip())
  for column in _NUMBERS:
    table[column] = _numbers(table[column], name)
  table["params"] = table.params_millions * 1e6
  table["effective_compute"] = records.compute(table.params, table.nfe)
  table = table.assign(fd_inception=table.fid, fd_dinov2=table.fdd)
  return table.sort_values(["fid", "effective_compute"], ignore_index=True)


def title(table: pd.DataFrame) -> str:
  """Returns the title of the dataset that the results are on."""
  return titles.dataset(table.dataset.iloc[0])


def _numbers(texts: pd.Series, name: str) -> pd.Series:
  """Returns a column as numbers, NaN where a cell is empty."""
  numbers = pd.to_numeric(texts.replace("", None), errors="coerce")
  wrong = (texts != "") & ~((numbers > 0) & np.isfinite(numbers))
  if wrong.any():
    row = wrong.idxmax()
    raise UserError(
      f"{name}, line {row + 2}: {texts.name} is {texts[row]!r}; it must be a "
      "positive number"
    )
  return numbers.astype(float)
