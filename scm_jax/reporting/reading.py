"""Finds and reads the reports of a set of runs. Nothing is scored here.

A folder's records are in its `report.json`; those of a sweep's run are in its
`scores.json`, and those of a sweep in its runs' folders. Which training and
teacher a record belongs to is read from the training's `config.json`. Where
that is out of reach, as when reports were copied without their runs, names of
folders have to do.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from scm_jax import configuration, errors, files
from scm_jax.errors import UserError
from scm_jax.reporting.score_table import Entry

REPORT, SCORES = "report.json", "scores.json"
_RENAMED = ("name", "dataset")  # what a combined report changes in a record
_SEED = re.compile(r"(?i)[_.\- ]?seed[=_\- ]?\d+")


def read(workdirs: Sequence[str], reports: Sequence[str]) -> list[Entry]:
  """Returns all records, each once, in the order in which they are named.

  The workdirs are trained runs, or a sweep's folder; the reports are
  `report.json` files.

  Raises:
    UserError: a workdir was not evaluated, or a file is damaged.
  """
  own = {name: _files(name) for name in workdirs}
  named = [file for found in own.values() for file in found]
  named += [epath.Path(name) for name in reports]
  entries = [e for file in dict.fromkeys(named) for e in _entries(file)]
  _check_covered([name for name, found in own.items() if not found], entries)
  if not entries:
    raise UserError("the reports contain no runs")
  unique = {}
  for entry in entries:  # a record may have been copied to another report
    record = {k: v for k, v in entry.record.items() if k not in _RENAMED}
    unique[json.dumps([record, entry.training], sort_keys=True)] = entry
  return _told_apart([*unique.values()])


def _told_apart(entries: Sequence[Entry]) -> list[Entry]:
  """Returns entries whose datasets say of which of several parts they are.

  Where several parts of a dataset, or files of one name, are known, its name is
  followed by the part, or by the beginning of the file's digest.
  """

  def part(entry: Entry) -> str:
    _, split, digest = entry.against
    return split or (digest or "")[:8]

  parts: dict[str, set[str]] = {}
  for entry in entries:
    parts.setdefault(entry.dataset, set()).add(part(entry))
  return [
    entry._replace(dataset=f"{entry.dataset}:{part(entry)}")
    if part(entry) and len(parts[entry.dataset] - {""}) > 1
    else entry
    for entry in entries
  ]


def _files(workdir: str) -> list[epath.Path]:
  """Returns the files that hold a workdir's records."""
  folder = epath.Path(workdir)
  if not folder.exists():
    raise UserError(f"the folder {workdir} does not exist")
  for name in (REPORT, SCORES):
    if (folder / name).exists():
      return [folder / name]
  if (folder / "config.json").exists():
    return []
  runs = sorted(folder.glob(f"*/{SCORES}"))
  if not runs and list(folder.glob("*/config.json")):
    raise UserError(
      f"{workdir} is a folder of runs that have no scores; name the runs, "
      f"--workdir={folder}/A,{folder}/B, or run the sweep that scores them"
    )
  return runs


def _check_covered(workdirs: Sequence[str], entries: Sequence[Entry]) -> None:
  """Raises UserError for workdirs whose records no report contains."""
  known = {entry.training for entry in entries}
  lacking = [w for w in workdirs if files.absolute(w) not in known]
  if lacking:
    several = len(lacking) > 1
    raise UserError(
      f"{', '.join(lacking)} {'have' if several else 'has'} no {REPORT}; write "
      f"one with: scm-jax evaluate --workdir={','.join(lacking)}"
      + f" --out=DIR, and pass it with --report=DIR/{REPORT}"
      * several
    )


def _entries(file: epath.Path) -> Iterator[Entry]:
  """Yields the entries of one file."""
  with errors.reading(file):
    content = json.loads(file.read_text())
  runs, reference = None, {}
  if isinstance(content, list):
    runs = _newest(content)
  elif isinstance(content, dict):
    runs, reference = content.get("runs"), content.get("reference") or {}
  if not isinstance(runs, list) or not isinstance(reference, dict):
    raise UserError(f"{file} is not a report, because it has no list of runs")
  origins = _Origins(file)
  for number, record in enumerate(runs, 1):
    place = f"{file}: run {number}"
    if not isinstance(record, dict):
      raise UserError(f"{place} is not a record of a report")
    for key, kind in (("objective", str), ("fd", dict)):
      if not isinstance(record.get(key), kind):
        raise UserError(f"{place} has no {key!r}, which every record has")
    if not isinstance(record.get("name") or "", str):
      raise UserError(f"{place} has a 'name' that is no text")
    seeds = record.get("by_seed") or []
    if not isinstance(seeds, list) or not all(map(_is_of_a_seed, seeds)):
      raise UserError(f"{place} has a 'by_seed' that no report has")
    origin = origins.find(str(record.get("workdir") or ""))
    if dataset := record.get("dataset") or reference.get("dataset"):
      origin["dataset"] = str(dataset)
    origin["guide"] = origins.guide(record.get("guide"))
    yield Entry(record, **origin, source=str(file), reference=reference)


def _is_of_a_seed(part: Any) -> bool:
  return isinstance(part, dict) and isinstance(part.get("seed"), int)


def _newest(scores: Sequence[Any]) -> list[Any] | None:
  """Returns the records of a `scores.json` that are of the newest step."""
  sound = (
    isinstance(part, dict)
    and isinstance(part.get("records"), list)
    and isinstance(part.get("step", 0), int)
    for part in scores
  )
  if not all(sound):
    return None
  newest = max((part.get("step", 0) for part in scores), default=0)
  found = [part for part in scores if part.get("step", 0) == newest]
  return [record for part in found for record in part["records"]]


class _Origins:
  """Finds the trainings of a report's records, and reads each config once."""

  def __init__(self, report: epath.Path):
    self._homes = (report.parent, report.parent.parent)
    self._config = functools.cache(_read_config)

  def find(self, workdir: str) -> dict[str, Any]:
    """Returns the fields of an Entry for a record that names a workdir."""
    if not workdir:
      return {}
    folder = self._folder(workdir)
    config = self._config(folder)
    if config is None:
      return {"training": folder, "repeats": without_seed(folder)}
    data = config.get("data")
    return {
      "training": folder,
      "teacher": self._first_teacher(config),
      "dataset": str(data.get("name", "")) if isinstance(data, Mapping) else "",
      "repeats": self._repeats(config),
      "method": json.dumps(config.get("objective"), sort_keys=True),
    }

  def _first_teacher(self, config: Mapping[str, Any]) -> str:
    """Returns the folder of a run's teacher, or of its teacher's; "" if none.

    A teacher that was a student itself is the first stage of two.
    """
    folder, seen = "", set()
    while (teacher := str(config.get("teacher") or "")) and teacher not in seen:
      seen.add(teacher)
      folder = self._folder(teacher)
      config = self._config(folder) or {}
    return folder

  def guide(self, seen: Any) -> str:
    """Returns `Entry.guide` of what a record says of a guidance network."""
    if not isinstance(seen, Mapping):
      return ""
    path = epath.Path(str(seen.get("workdir") or ""))
    inside = path.parent.name in ("checkpoints", "snapshots")
    folder = self._folder(str(path.parent.parent if inside else path))
    config = self._config(folder)
    trained = self._repeats(config) if config else without_seed(folder)
    return json.dumps([trained, seen.get("step"), seen.get("ema")])

  def _repeats(self, config: Mapping[str, Any]) -> str:
    """Returns what trainings that differ only in their seeds have in common."""
    kept = {
      field: value
      for field, value in configuration.flatten(config).items()
      if field != "seed" and not configuration.may_change(field)
    }
    if teacher := str(config.get("teacher") or ""):
      folder = self._folder(teacher)
      own = self._config(folder)
      # A teacher is trained without one, so this goes no deeper.
      known = own is not None and not own.get("teacher")
      kept["teacher"] = (
        self._repeats(own or {}) if known else without_seed(folder)
      )
    return json.dumps(kept, sort_keys=True)

  def _folder(self, workdir: str) -> str:
    """Returns a run's folder on this machine, or its name if there is none."""
    parts = epath.Path(workdir).parts
    places = [epath.Path(workdir)]
    for home in self._homes:
      places += [home.joinpath(*parts[-n:]) for n in range(len(parts), 0, -1)]
    for place in places:
      if self._config(str(place)) is not None:
        return files.absolute(place)
    return workdir


def _read_config(folder: str) -> dict[str, Any] | None:
  """Returns a run's config, or None where there is none to be read."""
  try:
    found = json.loads((epath.Path(folder) / "config.json").read_text())
  except (OSError, ValueError):
    return None
  return found if isinstance(found, dict) else None


def without_seed(name: str) -> str:
  """Returns `runs/scd_16_seed=2` or `runs/seed_2/scd` without the seed."""
  return _SEED.sub("", name)
