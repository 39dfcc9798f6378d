"""Scores over seeds, and their ratio to the teacher's: the one definition.

All tables and charts are made of the flat tables of `summarize`. For a score
NAME they have the columns `NAME` (mean), `NAME_sd` (standard deviation of a
sample, n - 1), `NAME_min` and `NAME_count`. The names are `fd_FEATURES` and
`ratio_FEATURES` for every feature space; all other scores (`kid`, `precision`,
...) are those in the main features, under their own names.
"""

import math
import statistics
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from scm_jax.reporting import objectives, records

_COUNTS = ("steps", "nfe", "params", "num", "trainings")
_KEYS = ["group", "score"]


class Entry(NamedTuple):
  """A record, and the training that it belongs to.

  Attributes:
    record: what `scm-jax evaluate` wrote.
    training: name or folder of the training; "" if unknown.
    teacher: name or folder of its teacher's training; "" if it has none, None
      if unknown.
    dataset: name of the dataset that it is scored against; "" if unknown.
    repeats: a key that is equal for trainings that differ only in their seeds;
      "" if unknown.
    method: a key that is equal for trainings with equal options of the
      objective.
    source: the file that the record is from.
    reference: what that file says of the reference.
  """

  record: Mapping[str, Any]
  training: str = ""
  teacher: str | None = None
  dataset: str = ""
  repeats: str = ""
  method: str = ""
  source: str = ""
  reference: Mapping[str, Any] = {}


def summarize(
  entries: Sequence[Entry], groups: Sequence[Hashable] | None = None
) -> pd.DataFrame:
  """Returns one row for each group of entries.

  With several trainings in a group, each contributes its mean over seeds of
  sampling, and the deviation is over trainings, whose spread is the larger one.
  With one training the deviation is over its seeds of sampling. The minimum is
  that of all single measurements.

  Args:
    entries: the records.
    groups: a key for each entry, equal for those that repeat a measurement;
      by default every entry is a group.

  Returns:
    A table with the columns of `records.describe`, `trainings`, `color` and
    `marker`, and the scores' columns, in the order of the first entries.
  """
  keys = range(len(entries)) if groups is None else groups
  numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
  places = [numbers[key] for key in keys]
  firsts = {n: e for n, e in zip(places[::-1], entries[::-1], strict=True)}
  rows = [records.describe(firsts[n].record) for n in range(len(numbers))]
  table = pd.DataFrame(rows, columns=[*records.describe({"objective": ""})])
  trainings = pd.Series(map(_training, range(len(entries)), entries))
  table["trainings"] = trainings.groupby(places).nunique()
  table = table.astype(object).where(table.notna(), None)
  table = table.astype(dict.fromkeys(_COUNTS, "Int64"))
  table = with_appearance(table)
  return table.join(_statistics(_measurements(entries, places)))


def with_appearance(table: pd.DataFrame) -> pd.DataFrame:
  """Returns a table with the columns `color` and `marker` of objectives."""
  looks = objectives.appearances(table.objective)
  return table.assign(
    color=[looks[name].color for name in table.objective],
    marker=[looks[name].marker for name in table.objective],
  )


def spaces(table: pd.DataFrame) -> list[str]:
  """Returns the feature spaces of a table's distances, the main one first."""
  names = [
    name.removeprefix("fd_")
    for name in table
    if name.startswith("fd_") and f"{name}_count" in table
  ]
  return sorted(names, key=lambda name: name == "pixels")


def main_distance(table: pd.DataFrame) -> pd.Series:
  """Returns each row's distance in its main features, infinite if missing."""
  names = [f"fd_{space}" for space in spaces(table)]
  filled = table.assign(none=float("inf"))[[*names, "none"]].bfill(axis=1)
  return filled.iloc[:, 0]


def scores(table: pd.DataFrame) -> list[str]:
  """Returns the names of the scores that are given in the main features."""
  return [
    name
    for name in table
    if f"{name}_count" in table and not name.startswith(("fd_", "ratio_"))
  ]


def by_seed(record: Mapping[str, Any], score: str, space: str) -> dict:
  """Returns the measurements of a score by seed of sampling."""
  found = {}
  for part in record.get("by_seed") or [record]:
    values = part.get(score)
    value = values.get(space) if isinstance(values, Mapping) else None
    if records.is_number(value) and math.isfinite(value):
      found[part.get("seed")] = float(value)
  return found


def teacher_distances(
  entry: Entry, teachers: Sequence[Entry], space: str
) -> dict:
  """Returns the distances that a student is compared with, by seed.

  They are of the student's own teacher, scored against the same dataset, with
  as many images as the student where there are such records, and with the most
  evaluations; of several such records (other guidance, other EMA) the best. A
  student whose teacher is unknown is compared only if there is one teacher.

  Args:
    entry: the student's record.
    teachers: all records of teachers.
    space: the feature space.
  """
  known = [
    (teacher, found)
    for teacher in teachers
    if teacher.dataset == entry.dataset
    and entry.teacher in (None, teacher.training)
    and (found := by_seed(teacher.record, "fd", space))
  ]
  if len({teacher.training for teacher, _ in known}) != 1:
    return {}
  num = entry.record.get("num")
  known = [k for k in known if k[0].record.get("num") == num] or known
  evaluations = [teacher.record.get("nfe") or 0 for teacher, _ in known]
  most = max(evaluations)
  full = [
    k[1] for k, nfe in zip(known, evaluations, strict=True) if nfe == most
  ]
  return min(full, key=lambda found: statistics.fmean(found.values()))


def _training(number: int, entry: Entry) -> str:
  """Returns a name for an entry's training, even if it is unknown."""
  return entry.training or f"record {number}"


def _measurements(
  entries: Sequence[Entry], places: Sequence[int]
) -> pd.DataFrame:
  """Returns every single measurement: group, training, score, seed, value."""
  teachers = [e for e in entries if _is_teacher(e)]
  lines = []
  for number, entry in enumerate(entries):
    training = _training(number, entry)
    for score, values in _scores_of(entry, teachers):
      for seed, value in values.items():
        lines.append((places[number], training, score, seed, value))
  table = pd.DataFrame(
    lines, columns=["group", "training", "score", "seed", "value"]
  )
  unique = ["group", "training", "score", "seed"]
  return table.drop_duplicates(unique, keep="last")


def _scores_of(
  entry: Entry, teachers: Sequence[Entry]
) -> Iterator[tuple[str, dict]]:
  """Yields the name and the values by seed of every score of an entry."""
  record = entry.record
  for space in record["fd"]:
    distances = by_seed(record, "fd", space)
    yield f"fd_{space}", distances
    if not _is_teacher(entry):
      base = teacher_distances(entry, teachers, space)
      yield f"ratio_{space}", _ratio(distances, base)
  main = records.main_space(record["fd"])
  for score in records.score_names(record):
    yield score, by_seed(record, score, main)


def _ratio(distances: Mapping, teacher: Mapping) -> dict:
  """Returns distances over the teacher's, seed by seed where it has them."""
  if not teacher or min(teacher.values()) <= 0:
    return {}
  mean = statistics.fmean(teacher.values())
  paired = all(seed in teacher for seed in distances)
  return {
    seed: value / (teacher[seed] if paired else mean)
    for seed, value in distances.items()
  }


def _statistics(values: pd.DataFrame) -> pd.DataFrame:
  """Returns the flat columns of all scores, one row for each group."""
  several = values.groupby(_KEYS).training.transform("nunique") > 1
  means = (
    values[several].groupby([*_KEYS, "training"], as_index=False).value.mean()
  )
  repeated = pd.concat([values[~several], means]).groupby(_KEYS).value
  found = pd.DataFrame(
    {
      "": repeated.mean(),
      "_sd": repeated.std(ddof=1),
      "_min": values.groupby(_KEYS).value.min(),
      "_count": repeated.size(),
    }
  )
  wide = found.unstack("score")
  names = [(end, name) for name in values.score.unique() for end in found]
  wide = (
    wide.reindex(columns=pd.MultiIndex.from_tuples(names)) if names else wide
  )
  wide.columns = [f"{name}{end}" for end, name in wide.columns]
  return wide


def _is_teacher(entry: Entry) -> bool:
  return objectives.is_teacher(entry.record["objective"])
