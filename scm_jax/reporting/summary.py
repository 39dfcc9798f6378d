"""The rows of a combined report: one for each way to draw images."""

from collections.abc import Sequence

import pandas as pd

from scm_jax.reporting import reading, records, score_table
from scm_jax.reporting.score_table import Entry


def summarize(entries: Sequence[Entry]) -> pd.DataFrame:
  """Returns one row for each group of records that differ only in seeds.

  To the columns of `score_table.summarize` it adds `run`, a short name of the
  trainings; `dataset`; `method`; `sources`, the records' files; `contradicted`,
  whether a measurement was made twice with other results; and `in_series`,
  whether a line of the charts passes through the row. Rows are
  sorted by dataset and main distance; those without a distance come last.
  """
  groups = [_group(number, entry) for number, entry in enumerate(entries)]
  members: dict[tuple, list[Entry]] = {}
  for group, entry in zip(groups, entries, strict=True):
    members.setdefault(group, []).append(entry)
  firsts = [same[0] for same in members.values()]
  table = score_table.summarize(entries, groups)
  runs = pd.Series(_short_names([entry.training for entry in firsts]))
  table.insert(0, "run", runs.where(runs != "", table.name).fillna("–"))
  table.insert(1, "dataset", [entry.dataset for entry in firsts])
  table["method"] = [entry.method for entry in firsts]
  table["sources"] = [
    list(dict.fromkeys(entry.source for entry in same))
    for same in members.values()
  ]
  table["contradicted"] = [*map(score_table.contradict, members.values())]
  table["in_series"] = _in_series(table)
  datasets = list(table.dataset.unique())
  keys = table.assign(place=table.dataset.map(datasets.index))
  main = [f"fd_{space}" for space in score_table.spaces(table)[:1]]
  keys = keys.sort_values(["place", *main, "run", "nfe"], ignore_index=True)
  return keys.drop(columns="place")


def _group(number: int, entry: Entry) -> tuple:
  """Returns a key that is equal for records that differ only in seeds."""
  keys = ("objective", "training_step", "steps", "nfe", "params")
  # On the numbers of samples scores depend.
  keys += ("num", "num_kept", *records.SETTINGS)
  values = [entry.record.get(key) for key in keys]
  values.append(entry.guide)
  trained = entry.repeats or f"record {number}"
  return (trained, *map(str, (*entry.against, *values)))


def _short_names(folders: Sequence[str]) -> list[str]:
  """Returns the last parts of folders without seeds that tell them apart."""
  parts = [
    [part for part in reading.without_seed(folder).split("/") if part]
    for folder in folders
  ]

  def shorten(own: list[str]) -> str:
    others = [other for other in parts if other != own]
    for count in range(1, len(own)):
      if all(other[-count:] != own[-count:] for other in others):
        return "/".join(own[-count:])
    return "/".join(own)

  return [shorten(own) for own in parts]


def _in_series(table: pd.DataFrame) -> pd.Series:
  """Returns whether a line of the charts passes through each row.

  A line is an objective and a number of steps. It joins the sizes of one
  method, the one with the most sizes, and at each size the sampler's settings
  with the lowest main distance.
  """
  result = pd.Series(False, index=table.index)
  known = table.assign(size=table.params.fillna(0))
  for _, series in known.groupby(["dataset", "series"], sort=False):
    sizes = series.groupby("method", sort=False)["size"].nunique()
    method = series[series.method == sizes.idxmax()]
    method = method.assign(distance=score_table.main_distance(method))
    result[method.groupby("size").distance.idxmin()] = True
  return result
