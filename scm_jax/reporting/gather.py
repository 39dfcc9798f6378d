"""Finds the reports of a set of runs and reads their records. Scores nothing.

A folder's records are in its `report.json`; those of a sweep's run in its
`scores.json`, and those of a sweep in its runs' folders.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from scm_jax import files
from scm_jax.errors import UserError
from scm_jax.reporting.origins import Origin, Origins

REPORT, SCORES = "report.json", "scores.json"
Record = dict[str, Any]
_GIVEN = ("name", "dataset")  # what gathering may change in a record


class Entry(NamedTuple):
  """A record, and where it comes from.

  Attributes:
    record: as `scm-jax evaluate` wrote it.
    origin: what its training's folder says.
    dataset: that it is scored against.
    source: the file.
    reference: what that file says of the reference; {} where it does not.
  """

  record: Record
  origin: Origin
  dataset: str
  source: str
  reference: Mapping[str, Any]


def gather(workdirs: Sequence[str], reports: Sequence[str]) -> list[Entry]:
  """All records, each once, in the order in which they are named.

  Args:
    workdirs: trained runs, or a sweep's folder.
    reports: files.

  Raises:
    UserError: a workdir was not evaluated, or a file is damaged.
  """
  origins = Origins()
  own = {name: _files(name) for name in workdirs}
  named = [file for found in own.values() for file in found]
  named += [epath.Path(name) for name in reports]
  entries = [e for file in dict.fromkeys(named) for e in _read(file, origins)]
  _check_covered([name for name, found in own.items() if not found], entries)
  if not entries:
    raise UserError("the reports have no runs")
  return list({_identity(entry): entry for entry in entries}.values())


def _identity(entry: Entry) -> str:
  """The same for a record found twice, as in a report gathered earlier."""
  record = {k: v for k, v in entry.record.items() if k not in _GIVEN}
  return json.dumps([record, entry.origin.folder], sort_keys=True)


def _files(workdir: str) -> list[epath.Path]:
  """Where a workdir's records are."""
  folder = epath.Path(workdir)
  if not folder.exists():
    raise UserError(f"there is no folder {workdir}")
  for name in (REPORT, SCORES):
    if (folder / name).exists():
      return [folder / name]
  if (folder / "config.json").exists():
    return []
  runs = sorted(folder.glob(f"*/{SCORES}"))
  if not runs and list(folder.glob("*/config.json")):
    raise UserError(
      f"{workdir} is a folder of runs without scores; name the runs, "
      f"--workdir={folder}/A,{folder}/B, or the sweep that is to score them"
    )
  return runs


def _check_covered(workdirs: Sequence[str], entries: Sequence[Entry]) -> None:
  """Raises UserError for workdirs without a report that no other one covers."""
  known = {entry.origin.folder for entry in entries}
  lacking = [w for w in workdirs if files.absolute(w) not in known]
  if len(lacking) == 1:
    raise UserError(
      f"{lacking[0]} has no {REPORT}; make one: "
      f"scm-jax evaluate --workdir={lacking[0]}"
    )
  if lacking:
    names = ",".join(lacking)
    raise UserError(
      f"{', '.join(lacking)} have no {REPORT}; make one of all in a folder "
      f"DIR: scm-jax evaluate --workdir={names} --out=DIR, and give it as "
      f"--report=DIR/{REPORT}"
    )


def _read(file: epath.Path, origins: Origins) -> Iterator[Entry]:
  """The entries of one file.

  Raises:
    UserError: it cannot be read, or is not a report.
  """
  try:
    content = json.loads(file.read_text())
  except OSError as error:
    raise UserError(f"cannot read {file}: {error.strerror or error}") from error
  except ValueError as error:
    raise UserError(f"{file} is damaged: {error}") from error
  if isinstance(content, list):
    runs, reference = _scored(content), {}
  elif isinstance(content, dict):
    runs, reference = content.get("runs"), content.get("reference") or {}
  else:
    runs, reference = None, {}
  if not isinstance(runs, list) or not isinstance(reference, dict):
    raise UserError(f"{file} is not a report: it has no list of runs")
  for number, record in enumerate(runs, 1):
    _check(record, f"{file}: run {number}")
    origin = origins.of(str(record.get("workdir") or ""), file)
    dataset = record.get("dataset") or reference.get("dataset")
    dataset = str(dataset or origin.dataset)
    yield Entry(record, origin, dataset, str(file), reference)


def _scored(entries: Sequence[Any]) -> list[Any] | None:
  """The records of a `scores.json`, of the newest step."""
  if not all(isinstance(e, dict) and "records" in e for e in entries):
    return None
  newest = max((e.get("step", 0) for e in entries), default=0)
  return [
    r for e in entries if e.get("step", 0) == newest for r in e["records"]
  ]


def _check(record: Any, place: str) -> None:
  if not isinstance(record, dict):
    raise UserError(f"{place} is not a record")
  for key, kind in (("objective", str), ("fd", dict)):
    if not isinstance(record.get(key), kind):
      raise UserError(f"{place} has no {key!r}, so it is no record of a report")
