"""The rows of a combined report: one for each way to draw images."""

from collections.abc import Sequence

import pandas as pd

from scm_jax.reporting import origins, records, score_table
from scm_jax.reporting.score_table import Entry


def summarize(entries: Sequence[Entry]) -> pd.DataFrame:
  """Returns one row for each group of records that differ only in seeds.

  Returns:
    The columns of `score_table.summarize`, and
    `run`: a short name of the trainings, without their seeds;
    `dataset`: the name of the dataset that the row is scored against;
    `sources`: the files of the records;
    `in_series`: whether a line of the charts passes through the row.
    Sorted by dataset and main distance; rows without a distance come last.
  """
  groups = [_group(number, entry) for number, entry in enumerate(entries)]
  members: dict[tuple, list[Entry]] = {}
  for group, entry in zip(groups, entries, strict=True):
    members.setdefault(group, []).append(entry)
  table = score_table.summarize(entries, groups)
  firsts = [same[0] for same in members.values()]
  folders = [origins.without_seed(entry.training) for entry in firsts]
  names = origins.short_names(folders)
  table.insert(
    0, "run", [n or t for n, t in zip(names, table.name, strict=True)]
  )
  table["run"] = table.run.fillna("–")
  table.insert(1, "dataset", [entry.dataset for entry in firsts])
  table["method"] = [entry.method for entry in firsts]
  table["sources"] = [
    list(dict.fromkeys(entry.source for entry in same))
    for same in members.values()
  ]
  table["in_series"] = _in_series(table)
  return _sorted(table)


def _group(number: int, entry: Entry) -> tuple:
  """Returns a key that is equal for records that differ only in seeds."""
  keys = ("objective", "training_step", "steps", "nfe", "params", "num")
  values = [entry.record.get(key) for key in (*keys, *records.SETTINGS)]
  trained = entry.repeats or f"record {number}"
  return (trained, entry.dataset, *map(str, values))


def _in_series(table: pd.DataFrame) -> pd.Series:
  """Returns whether a line of the charts passes through each row.

  A line is an objective and a number of steps. It joins the sizes of one
  method, the one with the most sizes, and at each size the sampler's settings
  with the lowest main distance.
  """
  result = pd.Series(False, index=table.index)
  distance = score_table.main_distance(table)
  known = table.assign(distance=distance, size=table.params.fillna(0))
  for _, series in known.groupby(["dataset", "series"], sort=False):
    sizes = series.groupby("method", sort=False)["size"].nunique()
    method = series[series.method == sizes.idxmax()]
    result[method.groupby("size").distance.idxmin()] = True
  return result


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
  """Returns the rows by dataset, main distance, run and evaluations."""
  places = {name: n for n, name in enumerate(dict.fromkeys(table.dataset))}
  main = [f"fd_{space}" for space in score_table.spaces(table)[:1]]
  keys = table.assign(place=table.dataset.map(places))
  order = keys.sort_values(["place", *main, "run", "nfe"], kind="stable").index
  return table.loc[order].reset_index(drop=True)
