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

from scm_jax.metrics import registry
from scm_jax.reporting import records, titles

_COUNTS = ("steps", "nfe", "params", "num", "trainings", *records.BUDGET)
_KEYS = ["group", "score"]


class Entry(NamedTuple):
  """A record, and the training that it belongs to."""

  record: Mapping[str, Any]  # what `scm-jax evaluate` wrote
  training: str = ""  # name or folder of the training; "" if unknown
  teacher: str | None = None  # as `training`; "" if none, None if unknown
  dataset: str = ""  # name of what it is scored against; "" if unknown
  repeats: str = ""  # a key of trainings that differ only in their seeds
  method: str = ""  # a key of trainings with equal options of the objective
  source: str = ""  # the file that the record is from
  guide: str = ""  # a key of guidance networks that differ only in their seeds
  reference: Mapping[str, Any] = {}  # what that file says of the reference

  @property
  def against(self) -> tuple[Any, ...]:
    """The dataset, its part, and a file's digest; None for what is unknown."""
    known = map(self.reference.get, ("split", "sha256"))
    return (self.dataset, *known)

  @property
  def is_teacher(self) -> bool:
    """Returns whether the record is of a network that teaches."""
    return titles.is_teacher(self.record["objective"])


def summarize(
  entries: Sequence[Entry], groups: Sequence[Hashable] | None = None
) -> pd.DataFrame:
  """Returns one row for each group of entries.

  Groups are given by a key for each entry, equal for those that repeat a
  measurement; by default every entry is a group. With several trainings in a
  group, each contributes its mean over seeds of sampling, and the deviation is
  over trainings, whose spread is the larger one. With one training the
  deviation is over its seeds of sampling. The minimum is that of all single
  measurements.

  Returns:
    A table with the columns of `records.describe`, `trainings`, `color` and
    `marker`, and the scores' columns, in the order of the first entries.
  """
  keys = range(len(entries)) if groups is None else groups
  numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
  places = [numbers[key] for key in keys]
  firsts: dict[int, Entry] = {}
  for place, entry in zip(places, entries, strict=True):
    firsts.setdefault(place, entry)
  rows = [records.describe(entry.record) for entry in firsts.values()]
  table = pd.DataFrame(rows, columns=[*records.describe({"objective": ""})])
  trainings = pd.Series(map(_training, range(len(entries)), entries))
  table["trainings"] = trainings.groupby(places).nunique()
  table = table.astype(object).where(table.notna(), None)
  table = table.astype(dict.fromkeys(_COUNTS, "Int64"))
  table = with_appearance(table)
  return table.join(_statistics(_measurements(entries, places)))


def with_appearance(table: pd.DataFrame) -> pd.DataFrame:
  """Returns a table with the columns `color` and `marker` of objectives."""
  looks = titles.appearances(table.objective)
  return table.assign(
    color=[looks[name].color for name in table.objective],
    marker=[looks[name].marker for name in table.objective],
  )


def spaces(table: pd.DataFrame) -> list[str]:
  """Returns the feature spaces of a table's distances, the main one first."""
  found = [
    name[3:]
    for name in _scores(table)
    if name.startswith("fd_") and name not in registry.columns()
  ]
  return sorted(found, key=records.rank)


def scores(table: pd.DataFrame) -> list[str]:
  """Returns the names of the scores that are given in the main features."""
  by_space, known = ("fd_", "ratio_"), registry.columns()
  return [
    name
    for name in _scores(table)
    if name in known or not name.startswith(by_space)
  ]


def _scores(table: pd.DataFrame) -> list[str]:
  known = [name for name in table if f"{name}_count" in table]
  return [name for name in known if not name.endswith(records.ERROR)]


def main_spaces(entries: Sequence[Entry]) -> dict[str, str]:
  """Returns the main features of each dataset's records, by its name.

  All other scores of a dataset are given in them, also where a record's own
  first features are others: numbers of one column must be of one kind.
  """
  names = dict.fromkeys(n for entry in entries for n in entry.record["fd"])
  found: dict[str, set[str]] = {}
  for entry in entries:
    found.setdefault(entry.dataset, set()).update(entry.record["fd"])
  return {
    dataset: records.main_space(name for name in names if name in known)
    for dataset, known in found.items()
  }


def main_distance(table: pd.DataFrame) -> pd.Series:
  """Returns each row's distance, infinite if missing.

  It is in the first features that any row of the table has.
  """
  columns = [table[f"fd_{space}"].astype(float) for space in spaces(table)]
  known = (column for column in columns if column.notna().any())
  missing = pd.Series(float("nan"), table.index)
  return next(known, missing).fillna(float("inf"))


def teacher_distances(
  entry: Entry, teachers: Sequence[Entry], space: str
) -> dict:
  """Returns the distances that a student is compared with, by seed.

  Among the records of teachers they are those of the student's own, scored
  against the same images, by as many samples of classes chosen in the same way
  (on which distances depend), and with the most evaluations; of several such
  records (other guidance, other EMA) the best. A student whose teacher is
  unknown is compared only if there is one teacher.
  """
  own = _protocol(entry)
  known = [
    (teacher, found)
    for teacher in teachers
    if _same(_protocol(teacher), own)
    and entry.teacher in (None, teacher.training)
    and (found := _by_seed(teacher.record, "fd", space))
  ]
  if len({teacher.training for teacher, _ in known}) != 1:
    return {}

  def preference(candidate: tuple[Entry, dict]) -> tuple[float, float]:
    teacher, found = candidate
    mean = statistics.fmean(found.values())
    return -(teacher.record.get("nfe") or 0), mean

  return min(known, key=preference)[1]


def contradict(entries: Sequence[Entry]) -> bool:
  """Returns whether entries measure one distance twice, and differ."""
  seen: dict[tuple, float] = {}
  return any(
    not math.isclose(seen.setdefault(key, value), value, rel_tol=1e-4)
    for entry in entries
    for space in entry.record["fd"]
    for seed, value in _by_seed(entry.record, "fd", space).items()
    for key in [(entry.training, seed, space)]
  )


def _protocol(entry: Entry) -> tuple[Any, ...]:
  """Returns what two distances must have in common to be compared."""
  return (*entry.against, *map(entry.record.get, ("num", "labels")))


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
  """Returns whether two protocols are equal, as far as they are known."""
  pairs = zip(one, other, strict=True)
  return all(a is None or b is None or a == b for a, b in pairs)


def _by_seed(record: Mapping[str, Any], score: str, space: str) -> dict:
  """Returns the measurements of a score by seed of sampling."""
  found = {}
  for part in record.get("by_seed") or [record]:
    values = part.get(score)
    value = values.get(space) if isinstance(values, Mapping) else None
    if records.is_number(value) and math.isfinite(value):
      found[part.get("seed")] = float(value)
  return found


def _training(number: int, entry: Entry) -> str:
  """Returns a name for an entry's training, even if it is unknown."""
  return entry.training or f"record {number}"


def _measurements(
  entries: Sequence[Entry], places: Sequence[int]
) -> pd.DataFrame:
  """Returns every single measurement: group, score, training, seed, value.

  Where one was made twice, the last counts.
  """
  teachers = [entry for entry in entries if entry.is_teacher]
  mains = main_spaces(entries)
  lines = [
    (places[number], score, _training(number, entry), seed, value)
    for number, entry in enumerate(entries)
    for score, values in _scores_of(entry, teachers, mains[entry.dataset])
    for seed, value in values.items()
  ]
  unique = [*_KEYS, "training", "seed"]
  table = pd.DataFrame(lines, columns=[*unique, "value"])
  return table.drop_duplicates(unique, keep="last")


def _scores_of(
  entry: Entry, teachers: Sequence[Entry], main: str
) -> Iterator[tuple[str, dict]]:
  """Yields the name and the values by seed of every score of an entry.

  Scores other than distances and ratios are those in the `main` features.
  """
  record = entry.record
  for space in record["fd"]:
    distances = _by_seed(record, "fd", space)
    yield f"fd_{space}", distances
    if not entry.is_teacher:
      base = teacher_distances(entry, teachers, space)
      yield f"ratio_{space}", _ratio(distances, base)
  for score in records.score_names(record):
    yield score, _by_seed(record, score, main)
    if errors := _by_seed(record, score + records.ERROR, main):
      yield score + records.ERROR, errors


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
  by_training = values[several].groupby([*_KEYS, "training"], as_index=False)
  repeated = pd.concat([values[~several], by_training.value.mean()])
  repeated = repeated.groupby(_KEYS).value
  found = {
    "": repeated.mean(),
    "_sd": repeated.std(ddof=1),
    "_min": values.groupby(_KEYS).value.min(),
    "_count": repeated.size(),
  }
  columns = {
    f"{score}{end}": statistic.xs(score, level="score")
    for score in values.score.unique()
    for end, statistic in found.items()
  }
  return pd.DataFrame(columns)
