"""Finds and reads the reports of a set of runs. Nothing is scored here.

A folder's records are in its `report.json`; those of a sweep's run are in its
`scores.json`, and those of a sweep in its runs' folders.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from scm_jax import files
from scm_jax.errors import UserError
from scm_jax.reporting.origins import Origins
from scm_jax.reporting.score_table import Entry

REPORT, SCORES = "report.json", "scores.json"
_RENAMED = ("name", "dataset")  # what a combined report changes in a record


def read(workdirs: Sequence[str], reports: Sequence[str]) -> list[Entry]:
  """Returns all records, each once, in the order in which they are named.

  Args:
    workdirs: trained runs, or a sweep's folder.
    reports: `report.json` files.

  Raises:
    UserError: a workdir was not evaluated, or a file is damaged.
  """
  origins = Origins()
  own = {name: _files(name) for name in workdirs}
  named = [file for found in own.values() for file in found]
  named += [epath.Path(name) for name in reports]
  entries = [
    e for file in dict.fromkeys(named) for e in _entries(file, origins)
  ]
  _check_covered([name for name, found in own.items() if not found], entries)
  if not entries:
    raise UserError("the reports contain no runs")
  return list({_identity(entry): entry for entry in entries}.values())


def _identity(entry: Entry) -> str:
  """Returns a key that a record keeps when it is copied to another report."""
  record = {k: v for k, v in entry.record.items() if k not in _RENAMED}
  return json.dumps([record, entry.training], sort_keys=True)


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
  if len(lacking) == 1:
    raise UserError(
      f"{lacking[0]} has no {REPORT}; write one with: "
      f"scm-jax evaluate --workdir={lacking[0]}"
    )
  if lacking:
    names = ",".join(lacking)
    raise UserError(
      f"{', '.join(lacking)} have no {REPORT}; write one for all of them with: "
      f"scm-jax evaluate --workdir={names} --out=DIR, and pass it with "
      f"--report=DIR/{REPORT}"
    )


def _entries(file: epath.Path, origins: Origins) -> Iterator[Entry]:
  """Yields the entries of one file.

  Raises:
    UserError: the file cannot be read, or is not a report.
  """
  try:
    content = json.loads(file.read_text())
  except OSError as error:
    raise UserError(f"cannot read {file}: {error.strerror or error}") from error
  except ValueError as error:
    raise UserError(f"{file} is damaged: {error}") from error
  runs, reference = None, {}
  if isinstance(content, list):
    runs = _newest(content)
  elif isinstance(content, dict):
    runs, reference = content.get("runs"), content.get("reference") or {}
  if not isinstance(runs, list) or not isinstance(reference, dict):
    raise UserError(f"{file} is not a report, because it has no list of runs")
  for number, record in enumerate(runs, 1):
    _check(record, f"{file}: run {number}")
    origin = origins.find(str(record.get("workdir") or ""), file)
    dataset = record.get("dataset") or reference.get("dataset")
    if dataset:
      origin["dataset"] = str(dataset)
    yield Entry(record, **origin, source=str(file), reference=reference)


def _newest(scores: Sequence[Any]) -> list[Any] | None:
  """Returns the records of a `scores.json` that are of the newest step."""
  if not all(isinstance(part, dict) and "records" in part for part in scores):
    return None
  newest = max((part.get("step", 0) for part in scores), default=0)
  return [
    record
    for part in scores
    if part.get("step", 0) == newest
    for record in part["records"]
  ]


def _check(record: Any, place: str) -> None:
  """Raises UserError unless an entry of a report's `runs` is a record."""
  if not isinstance(record, dict):
    raise UserError(f"{place} is not a record of a report")
  for key, kind in (("objective", str), ("fd", dict)):
    if not isinstance(record.get(key), kind):
      raise UserError(f"{place} has no {key!r}, which every record has")
