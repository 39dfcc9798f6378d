"""From single records to rows: seeds together, and ratios to the teacher."""

import dataclasses
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scm_jax.metrics import report
from scm_jax.reporting.gather import Entry
from scm_jax.reporting.origins import without_seed
from scm_jax.reporting.statistic import Statistic, by_seed, number, over

TEACHERS = ("teacher", "diffusion")
SETTINGS = (*report.SETTINGS, "labels")
# Scores shown in the main features alone, by their seeds' mean.
SINGLE = (
  "kid",
  "precision",
  "recall",
  "density",
  "coverage",
  "inception_score",
)
_NAMES = {"scd": "sCD", "sct": "sCT"}


@dataclasses.dataclass(frozen=True)
class Row:
  """A way to draw images, over the trainings and seeds that repeat it.

  Attributes:
    run: name of its trainings without their seeds.
    dataset: that it is scored against; "" is unknown.
    objective, steps, nfe, params, num: of its records.
    settings: of its sampler, those of `SETTINGS` that its records have.
    trainings: how many repeat it.
    fd: by feature space.
    ratio: of `fd` to the teacher's at its most evaluations, the same seeds'.
    single: means of the other scores, in the main features.
    sources: files of the records.
    kin, method: see `origins.Origin`.
    shown: whether a series of the charts goes through it.
  """

  run: str
  dataset: str
  objective: str
  steps: int | None
  nfe: int | None
  params: int | None
  num: int | None
  settings: Mapping[str, Any]
  trainings: int
  fd: Mapping[str, Statistic]
  ratio: Mapping[str, Statistic]
  single: Mapping[str, float]
  sources: tuple[str, ...]
  kin: str
  method: str
  shown: bool = True

  @property
  def compute(self) -> float | None:
    """Effective sampling compute, billions of parameters times evaluations."""
    if self.params is None or self.nfe is None:
      return None
    return self.params / 1e9 * self.nfe

  @property
  def teacher(self) -> bool:
    return self.objective in TEACHERS

  @property
  def sampler(self) -> str:
    """`2 steps`; of a teacher `63 NFE`."""
    if self.teacher or self.steps is None:
      return "-" if self.nfe is None else f"{self.nfe} NFE"
    return f"{self.steps} step{'s' if self.steps > 1 else ''}"

  @property
  def series(self) -> str:
    """What the charts call it: `sCD, 2 steps`."""
    name = _NAMES.get(self.objective, self.objective)
    return f"{name}, {self.sampler}"


def rows(entries: Sequence[Entry]) -> list[Row]:
  """A row for each group of records that differ in nothing but seeds.

  In the order of the groups' first records.
  """
  groups: dict[tuple, list[Entry]] = {}
  for number_, entry in enumerate(entries):
    kin = entry.origin.kin or f"record {number_}"
    groups.setdefault((kin, *_way(entry)), []).append(entry)
  names = _names(list(groups.values()))
  found = [
    _row(group, name, kin[0], entries)
    for (kin, group), name in zip(groups.items(), names, strict=True)
  ]
  return _choose(found)


def main_space(entries: Sequence[Entry]) -> str:
  """The feature space to show where there is room for one.

  The first that is not the pixels, of all records; "" if there is none.
  """
  names = list(dict.fromkeys(n for e in entries for n in e.record["fd"]))
  return report.main_space(names) if names else ""


def _way(entry: Entry) -> tuple:
  """How a record's images were drawn and scored, the seeds aside."""
  record = entry.record
  keys = ("objective", "training_step", "steps", "nfe", "params", *SETTINGS)
  way = [str(record.get(key)) for key in (*keys, "num")]
  return (entry.dataset, *way)


def _names(groups: Sequence[Sequence[Entry]]) -> list[str]:
  """Short names of the groups' trainings, different where those are.

  The last part of the folder, or as many as tell it from others.
  """
  folders = [
    without_seed(group[0].origin.folder).rstrip("/") for group in groups
  ]
  tails = {folder: 1 for folder in folders}

  def tail(folder: str) -> str:
    parts = [part for part in folder.split("/") if part]
    return "/".join(parts[-tails[folder] :])

  for _ in range(max((f.count("/") for f in folders), default=0)):
    taken = Counter(tail(folder) for folder in tails)
    for folder in tails:
      tails[folder] += taken[tail(folder)] > 1
  return [
    tail(folder) or str(group[0].record.get("name", "-"))
    for folder, group in zip(folders, groups, strict=True)
  ]


def _row(
  group: Sequence[Entry], name: str, kin: str, entries: Sequence[Entry]
) -> Row:
  record = group[0].record
  spaces = dict.fromkeys(space for e in group for space in e.record["fd"])
  main = main_space(group)
  fd, ratio = {}, {}
  for space in spaces:
    measured = _measured(group, "fd", space)
    if found := over(list(seeds.values()) for seeds in measured.values()):
      fd[space] = found
    if found := over(_ratios(group, space, measured, entries)):
      ratio[space] = found
  single = {}
  for metric in SINGLE:
    values = _measured(group, metric, main)
    if found := over(list(seeds.values()) for seeds in values.values()):
      single[metric] = found.mean
  return Row(
    run=name,
    dataset=group[0].dataset,
    objective=record["objective"],
    steps=_count(record.get("steps")),
    nfe=_count(record.get("nfe")),
    params=_count(record.get("params")),
    num=_count(record.get("num")),
    settings={k: record[k] for k in SETTINGS if record.get(k) is not None},
    trainings=len({e.origin.folder or id(e) for e in group}),
    fd=fd,
    ratio=ratio,
    single=single,
    sources=tuple(dict.fromkeys(e.source for e in group)),
    kin=kin,
    method=group[0].origin.method,
  )


def _measured(
  group: Iterable[Entry], metric: str, space: str
) -> dict[str, dict[Any, float]]:
  """Measurements of one score, by training and seed of sampling."""
  found: dict[str, dict[Any, float]] = {}
  for entry in group:
    seeds = by_seed(entry.record, metric, space)
    if seeds:
      found.setdefault(entry.origin.folder, {}).update(seeds)
  return found


def _ratios(
  group: Sequence[Entry],
  space: str,
  measured: Mapping[str, Mapping[Any, float]],
  entries: Sequence[Entry],
) -> list[list[float]]:
  """Distances over those of each training's teacher, by training."""
  ratios = []
  for entry in {e.origin.folder: e for e in group}.values():
    own = measured.get(entry.origin.folder, {})
    teacher = _teacher(entry, entries, space)
    if not (own and teacher) or min(teacher.values()) <= 0:
      continue
    mean = statistics.fmean(teacher.values())
    paired = all(seed in teacher for seed in own)
    ratios.append(
      [fd / (teacher[seed] if paired else mean) for seed, fd in own.items()]
    )
  return ratios


def _teacher(
  entry: Entry, entries: Sequence[Entry], space: str
) -> dict[Any, float]:
  """Distances of an entry's teacher by seed; {} if there is none to be had.

  Of its records, those at the most evaluations, with as many images as the
  student's if there are such; of those the best.
  """
  if entry.record["objective"] in TEACHERS:
    return {}
  known = [
    (e, found)
    for e in entries
    if e.record["objective"] in TEACHERS
    and e.dataset == entry.dataset
    and (found := by_seed(e.record, "fd", space))
  ]
  folder = entry.origin.teacher
  if folder is None:  # no config: the only teacher there is must be it
    if len({e.origin.folder for e, _ in known}) > 1:
      return {}
  else:
    known = [(e, found) for e, found in known if e.origin.folder == folder]
  num = entry.record.get("num")
  known = [k for k in known if k[0].record.get("num") == num] or known
  most = max((number(e.record.get("nfe")) or 0 for e, _ in known), default=0)
  full = [found for e, found in known if (e.record.get("nfe") or 0) == most]
  return min(full, key=lambda f: statistics.fmean(f.values()), default={})


def _choose(found: Sequence[Row]) -> list[Row]:
  """The rows, those marked as not shown through which no series goes.

  A series has one method, the one with the most sizes, and at each size the
  sampler's settings that score best. The rest are other choices.
  """
  kept: set[int] = set()
  series: dict[tuple, list[Row]] = {}
  for row in found:
    series.setdefault((row.dataset, row.series), []).append(row)
  for rows_ in series.values():
    sizes: dict[str, set] = {}
    for row in rows_:
      sizes.setdefault(row.method, set()).add(row.params)
    method = max(sizes, key=lambda name: len(sizes[name]))
    by_size: dict[Any, list[Row]] = {}
    for row in rows_:
      if row.method == method:
        by_size.setdefault(row.params, []).append(row)
    kept |= {id(min(same, key=_distance)) for same in by_size.values()}
  return [dataclasses.replace(row, shown=id(row) in kept) for row in found]


def _distance(row: Row) -> float:
  if not row.fd:
    return float("inf")
  return row.fd[report.main_space(list(row.fd))].mean


def _count(value: Any) -> int | None:
  found = number(value)
  return None if found is None or found <= 0 else int(found)
