"""Results that others published, from a CSV with the source of every row."""

import importlib.resources
import io
import pathlib

import numpy as np
import pandas as pd

from scm_jax import errors
from scm_jax.errors import ConfigError, UserError
from scm_jax.reporting import records, titles

DATASETS = ("imagenet512", "imagenet64", "cifar10")
NONE = "none"
_NUMBERS = ("nfe", "params_millions", "fid", "fdd")
_TEXTS = ("dataset", "method", "series", "label", "source", "note")

# The colour and the format in which matplotlib draws a series; a line joins the
# points where they are sizes of one method.
SERIES = {
  "EDM2": ("#6A3D9A", "s-"),
  "EDM": ("#6A3D9A", "s-"),
  "sCM's teacher": ("#333333", "s-"),
  "sCD, 1 step": ("#56B4E9", "o-"),
  "sCD, 2 steps": ("#0072B2", "o-"),
  "sCD": ("#0072B2", "o-"),
  "sCT, 1 step": ("#F0A868", "D-"),
  "sCT, 2 steps": ("#D55E00", "D-"),
  "sCT": ("#D55E00", "D-"),
  "later few-step": ("#009E73", "^"),
  "ECT": ("#CC79A7", "v"),
  "TCM": ("#B8860B", "P"),
  "GANs, masked and autoregressive": ("#B8860B", "P"),
  "other diffusion": ("#8A8A8A", "X"),
}
OTHER = ("#8A8A8A", "X-")


def load(name: str) -> pd.DataFrame:
  """Returns the results on one of `DATASETS`, of a CSV file, or `none`.

  The table has the columns of the file, and those of our own runs: `params`,
  `effective_compute`, `fd_inception`, `fd_dinov2`. The best come first.

  Raises:
    ConfigError: there is no such set.
    UserError: the file cannot be read, or is not such a table.
  """
  if name in (*DATASETS, NONE):
    file = importlib.resources.files("scm_jax.reporting") / "published.csv"
    table = parse(file.read_text("utf-8"), file.name)
    return table[table.dataset == name].reset_index(drop=True)
  if not name.endswith(".csv"):
    hint = errors.hint(name, (*DATASETS, NONE))
    raise ConfigError(f"--published={name}: {hint}, or a .csv file")
  with errors.reading(name):
    text = pathlib.Path(name).read_text("utf-8")
  return parse(text, name)


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
