"""Scores a sweep's finished runs by `scm-jax evaluate`, and keeps the scores.

Several runs share a call, because starting up takes longer than scoring a
small network. `scores.json` in a run's folder holds what it was asked and the
records of the report.
"""

import json
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scm_jax import files
from scm_jax.sweeping import pool
from scm_jax.sweeping.points import Overrides
from scm_jax.sweeping.runs import Run, shown
from scm_jax.sweeping.training import PROGRAM

SCORES = "scores.json"
_TOGETHER = 8  # runs in one call


def flags(sampling: Overrides, more: Sequence[str] = ()) -> tuple[str, ...]:
  """`{"t_mid": 0.8, "steps": (1, 2)}` as flags of `scm-jax evaluate`."""

  def text(value: Any) -> str:
    if isinstance(value, tuple | list):
      return ",".join(map(str, value))
    return shown(value)

  words = {f"--{k.replace('_', '-')}": text(v) for k, v in sampling.items()}
  words |= {flag.partition("=")[0]: flag.partition("=")[2] for flag in more}
  return tuple(f"{flag}={value}" for flag, value in words.items())


def score(
  runs: Sequence[Run],
  home: pathlib.Path,
  settings: pool.Settings,
  more: Sequence[str] = (),
) -> tuple[bool, list[str]]:
  """Scores the finished runs that have not been asked the same before.

  Args:
    runs: of the sweep.
    home: the sweep's folder, for what the runs share.
    settings: how many calls at a time, and how.
    more: further flags of `scm-jax evaluate`, for all.

  Returns:
    Whether no signal stopped it; and the last lines of calls that failed.
  """
  calls = list(missing(runs, more))
  slots: dict[str, int] = {}
  failures: list[str] = []
  by_folder = {str(run.folder): run for run in runs}

  def job(number: int, group: Sequence[Run], words: tuple[str, ...]):
    name = f"scores {number + 1}/{len(calls)}"

    def command(slot: int) -> list[str]:
      slots[name] = slot
      return [*PROGRAM, *arguments(group, words, _place(home, slot))]

    log = home / "evaluation" / f"evaluate_{number + 1}.log"
    return pool.Job(name, command, log)

  jobs = [job(i, group, words) for i, (group, words) in enumerate(calls)]
  asked = {job.name: words for job, (_, words) in zip(jobs, calls, strict=True)}

  def done(job: pool.Job, end: pool.Ended) -> bool:
    if end.code:
      if not end.stopped:
        failures.append(end.line)
      return False
    file = _place(home, slots[job.name]) / "report.json"
    _keep(json.loads(file.read_text())["runs"], asked[job.name], by_folder)
    return True

  # The first call alone: it trains the classifier that all share.
  for part in (jobs[:1], jobs[1:]):
    if part and not pool.run(part, settings, done):
      return False, failures
  return True, failures


def arguments(
  runs: Sequence[Run], words: Sequence[str], out: pathlib.Path
) -> list[str]:
  """Of one call, after `scm-jax`."""
  workdirs = ",".join(str(run.folder) for run in runs)
  shared = f"--cache={out.parent / 'features'}"
  return ["evaluate", f"--workdir={workdirs}", *words, shared, f"--out={out}"]


def missing(
  runs: Sequence[Run],
  more: Sequence[str] = (),
  as_finished: Sequence[Run] = (),
) -> Iterator[tuple[list[Run], tuple[str, ...]]]:
  """The calls that are needed: runs together, and the flags for them."""
  groups: dict[tuple, list[Run]] = {}
  for run in runs:
    if run.finished or run in as_finished:
      known = {_key(entry) for entry in read(run)}
      for sampling in run.point.sampling:
        words = flags(sampling, more)
        if (words, run.step) not in known:
          data = run.config.data  # which the reference is taken from
          groups.setdefault((words, data.name, data.split), []).append(run)
  for (words, *_), group in groups.items():
    for start in range(0, len(group), _TOGETHER):
      yield group[start : start + _TOGETHER], words


def read(run: Run) -> list[dict[str, Any]]:
  """What a run was asked, `{"flags": [...], "step": n, "records": [...]}`."""
  file = run.folder / SCORES
  if not file.exists():
    return []
  try:
    return json.loads(file.read_text())
  except ValueError:
    logging.warning("%s is damaged; scoring again", file)
    return []


def records(
  run: Run, sampling: Overrides, more: Sequence[str] = ()
) -> list[dict[str, Any]]:
  """The report's records of one way to sample; none if it was not scored."""
  key = (flags(sampling, more), run.step)
  for entry in read(run):
    if _key(entry) == key:
      return entry["records"]
  return []


def _key(entry: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
  return tuple(entry["flags"]), entry["step"]


def _keep(
  found: Sequence[Mapping[str, Any]],
  words: tuple[str, ...],
  by_folder: Mapping[str, Run],
) -> None:
  """Distributes a report's records to their runs."""
  for folder in dict.fromkeys(record["workdir"] for record in found):
    run = by_folder[folder]
    mine = [record for record in found if record["workdir"] == folder]
    entry = {"flags": list(words), "step": run.step, "records": mine}
    others = [old for old in read(run) if _key(old) != _key(entry)]
    text = json.dumps([*others, entry], indent=1)
    files.write_text(run.folder / SCORES, text + "\n")


def _place(home: pathlib.Path, slot: int) -> pathlib.Path:
  """Where a slot's reports go."""
  return home / "evaluation" / f"slot_{slot}"
