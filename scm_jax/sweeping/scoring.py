"""Scores a sweep's finished runs with `scm-jax evaluate`, and keeps the scores.

One call scores several runs, because starting up takes longer than scoring a
small network. A run's `scores.json` lists the flags of each evaluation and the
records of its report.
"""

import itertools
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from scm_jax import files
from scm_jax.sweeping import launchers, pool
from scm_jax.sweeping.points import Overrides
from scm_jax.sweeping.runs import SCORES, Run, flag_value

_TOGETHER = 8  # runs in one call


class Call(NamedTuple):
  """A call of `scm-jax evaluate`: the runs to score, and further flags."""

  runs: list[Run]
  flags: tuple[str, ...]

  def arguments(self, out: pathlib.Path) -> list[str]:
    """Returns the arguments after `scm-jax` of a call that reports to `out`."""
    workdirs = ",".join(str(run.folder) for run in self.runs)
    cache = f"--cache={out.parent / 'features'}"  # what all calls share
    own = [f"--workdir={workdirs}", *self.flags, cache, f"--out={out}"]
    return ["evaluate", *own]


def flags(sampling: Overrides, more: Sequence[str] = ()) -> tuple[str, ...]:
  """Returns `{"t_mid": 0.8, "steps": (1, 2)}` as flags of `scm-jax evaluate`.

  True stands for a switch, a flag without a value, and False for none. The
  further flags take precedence.
  """
  words = {}
  for key, value in sampling.items():
    flag = f"--{key.replace('_', '-')}"
    several = isinstance(value, tuple | list)
    text = ",".join(map(str, value)) if several else flag_value(value)
    if value is not False:
      words[flag] = flag if value is True else f"{flag}={text}"
  words |= {word.partition("=")[0]: word for word in more}
  return tuple(words.values())


def score(
  runs: Sequence[Run],
  home: pathlib.Path,
  settings: pool.Settings,
  more: Sequence[str] = (),
) -> list[str]:
  """Scores the finished runs that have no such scores yet.

  Reports, and what the calls share, are in the sweep's folder `home`. `more`
  are further flags of `scm-jax evaluate`. It returns the last lines of the
  calls that failed; a signal ends it like `pool.run`.
  """
  folder = home / "evaluation"
  failures: list[str] = []
  needed = list(missing(runs, more))
  calls: dict[str, tuple[Call, pathlib.Path]] = {}
  jobs = []
  for number, call in enumerate(needed, start=1):
    name, out = f"scores {number}/{len(needed)}", folder / f"call_{number}"
    calls[name] = call, out
    command = [*launchers.PROGRAM, *call.arguments(out)]
    jobs.append(pool.Job(name, command, folder / f"evaluate_{number}.log"))

  def done(job: pool.Job, result: pool.Result) -> bool:
    call, out = calls[job.name]
    if not result.code:
      found = json.loads((out / "report.json").read_text())["runs"]
      failures.extend(_keep(call, found))
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
  """Yields the calls that would score all finished runs, and `as_finished`.

  The further flags of `scm-jax evaluate` are for all runs.
  """
  groups: dict[tuple, list[Run]] = {}
  for run in runs:
    if run.finished or run in as_finished:
      known = read(run)
      for sampling in run.point.sampling:
        words = flags(sampling, more)
        if (words, run.step) not in known:
          # What the default reference depends on.
          data, reference = run.config.data, run.config.evaluate.reference
          where = data.name, data.split, data.data_dir, reference
          groups.setdefault((words, *where), []).append(run)
  for (words, *_), group in groups.items():
    for start in range(0, len(group), _TOGETHER):
      yield Call(group[start : start + _TOGETHER], words)


def read(run: Run) -> dict[tuple[tuple[str, ...], int], list[dict[str, Any]]]:
  """Returns a run's records by the flags of the evaluation and the step."""
  file = run.folder / SCORES
  if not file.exists():
    return {}
  try:
    entries = json.loads(file.read_text())
    found = {(tuple(e["flags"]), e["step"]): e["records"] for e in entries}
    for record in itertools.chain.from_iterable(found.values()):
      record["steps"], record["nfe"], record["fd"]
    return found
  except (ValueError, TypeError, KeyError):
    logging.warning("%s is damaged; scoring again", file)
    return {}


def _keep(call: Call, records: Sequence[Mapping[str, Any]]) -> list[str]:
  """Adds a report's records to the scores of their runs.

  Returns a line for each run that was scored at another step than its last,
  whose checkpoint is damaged then; nothing of it is kept.
  """
  failures = []
  for run in call.runs:
    own = [r for r in records if r["workdir"] == str(run.folder)]
    steps = {r.get("training_step", run.step) for r in own}
    if steps - {run.step}:
      failures.append(
        f"{run.name} was drawn at step {min(steps)}, because its checkpoint of "
        f"step {run.step} cannot be read; delete that checkpoint, and the same "
        "command trains those steps again"
      )
    elif own:
      scores = read(run) | {(call.flags, run.step): own}
      entries = [
        {"flags": list(words), "step": step, "records": found}
        for (words, step), found in scores.items()
      ]
      text = json.dumps(entries, indent=1)
      files.write_text(run.folder / SCORES, text + "\n")
  return failures
