"""Scores a sweep's finished runs with `scm-jax evaluate`, and keeps the scores.

One call scores several runs, because starting up takes longer than scoring a
small network. A run's `scores.json` lists the flags of each evaluation and the
records of its report.
"""

import json
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from scm_jax import files
from scm_jax.sweeping import launchers, pool
from scm_jax.sweeping.points import Overrides
from scm_jax.sweeping.runs import Run, flag_value

SCORES = "scores.json"
_TOGETHER = 8  # runs in one call


class Call(NamedTuple):
  """A call of `scm-jax evaluate`: the runs to score, and further flags."""

  runs: list[Run]
  flags: tuple[str, ...]

  def arguments(self, out: pathlib.Path) -> list[str]:
    """Returns the arguments after `scm-jax`.

    Args:
      out: the folder of the report; its parent holds what all calls share.
    """
    workdirs = ",".join(str(run.folder) for run in self.runs)
    cache = f"--cache={out.parent / 'features'}"
    own = [f"--workdir={workdirs}", *self.flags, cache, f"--out={out}"]
    return ["evaluate", *own]


def flags(sampling: Overrides, more: Sequence[str] = ()) -> tuple[str, ...]:
  """Returns `{"t_mid": 0.8, "steps": (1, 2)}` as flags of `scm-jax evaluate`.

  Args:
    sampling: one of the ways in which a point samples.
    more: further flags, which take precedence.
  """
  values = {f"--{k.replace('_', '-')}": _text(v) for k, v in sampling.items()}
  values |= {flag.partition("=")[0]: flag.partition("=")[2] for flag in more}
  return tuple(f"{flag}={value}" for flag, value in values.items())


def _text(value: Any) -> str:
  if isinstance(value, tuple | list):
    return ",".join(map(str, value))
  return flag_value(value)


def score(
  runs: Sequence[Run],
  home: pathlib.Path,
  settings: pool.Settings,
  more: Sequence[str] = (),
) -> list[str]:
  """Scores the finished runs that have no such scores yet.

  Args:
    runs: the sweep's runs.
    home: the sweep's folder, for reports and what the calls share.
    settings: how many calls run at a time, and how.
    more: further flags of `scm-jax evaluate` for all runs.

  Returns:
    The last lines of the calls that failed.

  Raises:
    KeyboardInterrupt: a signal stopped the calls.
  """
  folder = home / "evaluation"
  failures: list[str] = []
  calls: dict[str, tuple[Call, pathlib.Path]] = {}
  jobs = []
  needed = list(missing(runs, more))
  for number, call in enumerate(needed, start=1):
    name, out = f"scores {number}/{len(needed)}", folder / f"call_{number}"
    calls[name] = call, out
    command = [*launchers.PROGRAM, *call.arguments(out)]
    jobs.append(pool.Job(name, command, folder / f"evaluate_{number}.log"))

  def done(job: pool.Job, result: pool.Result) -> bool:
    call, out = calls[job.name]
    if not result.code:
      _keep(call, json.loads((out / "report.json").read_text())["runs"])
    elif not result.stopped:
      failures.append(result.line)
    return not result.code

  # The first call runs alone: it trains the classifier that all calls share.
  for part in (jobs[:1], jobs[1:]):
    pool.run(part, settings, done)
  return failures


def missing(
  runs: Sequence[Run],
  more: Sequence[str] = (),
  as_finished: Sequence[Run] = (),
) -> Iterator[Call]:
  """Yields the calls that would score all runs that are finished, or will be.

  Args:
    runs: the sweep's runs.
    more: further flags of `scm-jax evaluate` for all runs.
    as_finished: unfinished runs that are to be scored, too.
  """
  groups: dict[tuple, list[Run]] = {}
  for run in runs:
    if run.finished or run in as_finished:
      known = {_key(entry) for entry in read(run)}
      for sampling in run.point.sampling:
        words = flags(sampling, more)
        if (words, run.step) not in known:
          data = run.config.data  # the reference statistics depend on it
          groups.setdefault((words, data.name, data.split), []).append(run)
  for (words, *_), group in groups.items():
    for start in range(0, len(group), _TOGETHER):
      yield Call(group[start : start + _TOGETHER], words)


def read(run: Run) -> list[dict[str, Any]]:
  """Returns a run's scores: `{"flags": [...], "step": n, "records": [...]}`."""
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
  """Returns the report's records for one way to sample, [] if not scored."""
  key = (flags(sampling, more), run.step)
  entries = (entry for entry in read(run) if _key(entry) == key)
  return next(entries, {"records": []})["records"]


def _key(entry: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
  return tuple(entry["flags"]), entry["step"]


def _keep(call: Call, records: Sequence[Mapping[str, Any]]) -> None:
  """Adds a report's records to the scores of their runs."""
  for run in call.runs:
    own = [r for r in records if r["workdir"] == str(run.folder)]
    if not own:
      continue
    entry = {"flags": list(call.flags), "step": run.step, "records": own}
    others = [old for old in read(run) if _key(old) != _key(entry)]
    text = json.dumps([*others, entry], indent=1)
    files.write_text(run.folder / SCORES, text + "\n")
