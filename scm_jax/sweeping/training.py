"""Trains a sweep's runs side by side: here, or on Google Cloud from here."""

import contextlib
import fcntl
import logging
import pathlib
import sys
from collections.abc import Iterator, Sequence

from scm_jax.errors import UserError
from scm_jax.sweeping import launching, pool
from scm_jax.sweeping.runs import LOG, Run

PROGRAM = (sys.executable, "-m", "scm_jax")


def train(
  runs: Sequence[Run],
  launcher: str,
  logs: pathlib.Path,
  settings: pool.Settings,
  launch_flags: Sequence[str] = (),
) -> bool:
  """Runs what is not finished; writes down what fails.

  Args:
    runs: teachers before their students.
    launcher: `local`, or `gcp`: machines of its own for each run.
    logs: folder of the logs where the workdirs are in a bucket.
    settings: how many at a time, and how.
    launch_flags: of launch/gcp.sh.

  Returns:
    False when a signal stopped it, after the trainings saved.
  """
  by_name = {run.name: run for run in runs}
  ended = {run.name for run in runs if run.finished}
  jobs = [
    pool.Job(
      name=run.name,
      command=lambda slot, run=run: _command(run, launcher, launch_flags),
      log=_log(run, launcher, logs),
      needs=tuple({run.point.teacher} - ended - {""}),
    )
    for run in due(runs)
  ]

  def done(job: pool.Job, end: pool.Ended) -> bool:
    run = by_name[job.name]
    if run.finished:
      run.forgive()
      return True
    if not end.stopped:
      run.fail(end.line or f"ended at step {run.step}, before its last")
    return False

  return pool.run(jobs, settings, done)


def due(runs: Sequence[Run]) -> list[Run]:
  """What is to be trained: neither finished, nor failed, nor such a one's."""
  out: set[str] = set()
  result = []
  for run in runs:
    if run.finished:
      continue
    if run.failure is not None or run.point.teacher in out:
      out.add(run.name)
    else:
      result.append(run)
  return result


def _command(run: Run, launcher: str, launch_flags: Sequence[str]) -> list[str]:
  if launcher == "local":
    return [*PROGRAM, *run.train]
  return launching.gcp(run, launch_flags)


def _log(run: Run, launcher: str, logs: pathlib.Path) -> pathlib.Path:
  if launcher == "local":
    return pathlib.Path(run.folder) / LOG
  return logs / f"{run.name}.log"


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[int]:
  """Keeps other sweeps out of a folder while this one, or its runs, live.

  Yields the lock's file, which the runs inherit, so that it outlives a sweep
  that was killed.

  Raises:
    UserError: another sweep works there.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / ".lock", "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      raise UserError(
        f"another sweep works in {folder}, or runs that it started do"
      ) from None
    yield file.fileno()


def summary(runs: Sequence[Run]) -> list[Run]:
  """Says how far the runs are; returns those that failed."""
  failed = [run for run in runs if not run.finished and run.failure is not None]
  for run in failed:
    logging.warning("%s failed: %s", run.name, run.failure)
  waiting = [r for r in runs if not r.finished and r not in failed]
  if waiting:
    logging.info("not finished: %s", ", ".join(run.name for run in waiting))
  return failed
