"""Trains and scores the runs of a sweep: the steps behind `scm-jax sweep`."""

import dataclasses
import logging
import os
import pathlib
import shlex
from collections.abc import Sequence

from scm_jax.errors import UserError
from scm_jax.sweeping import launchers, pool, scoring, slurm
from scm_jax.sweeping.runs import LOG, Run


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The runs of a sweep, and how they are trained and scored.

  Attributes:
    runs: the runs, teachers before their students.
    home: the folder of the sweep's own files, such as reports and the table.
    launcher: `local`, `slurm` or `gcp`.
    parallel: how many commands run at a time on this machine.
    launch: further flags of launch/slurm.sh or launch/gcp.sh.
    evaluate: further flags of `scm-jax evaluate`.
  """

  runs: Sequence[Run]
  home: pathlib.Path
  launcher: str = "local"
  parallel: int = 1
  launch: Sequence[str] = ()
  evaluate: Sequence[str] = ()

  def commands(self) -> list[str]:
    """Returns the commands that the sweep would run, as they would be typed."""
    due = self.unfinished()
    if self.launcher == "slurm":
      lines = slurm.commands(due, self.home, self.launch)
    elif self.launcher == "gcp":
      words = (launchers.command(r, "gcp", self.launch) for r in self._due())
      lines = [shlex.join(each) for each in words]
    else:
      lines = [shlex.join(["scm-jax", *run.train]) for run in due]
    lines.append("# then, when all have ended:")
    calls = scoring.missing(self.runs, self.evaluate, as_finished=due)
    for number, call in enumerate(calls, 1):
      arguments = call.arguments(self.home / "evaluation" / f"call_{number}")
      lines.append(shlex.join(["scm-jax", *arguments]))
    return lines

  def train(self, lock: int | None, retry: bool = False) -> str:
    """Trains the unfinished runs, or submits them to Slurm.

    `lock` is the file descriptor of the sweep's lock (see `files.locked`); with
    `retry`, failed runs are tried again. It returns a sentence about what Slurm
    has to do; "" if no run is left to train.

    Raises:
      UserError: Slurm has runs of this sweep and another launcher is chosen, or
        a submission failed.
    """
    queued = slurm.queued(self.home)
    if queued and self.launcher != "slurm":
      raise UserError(
        f"{len(queued)} runs of {self.home} are in Slurm's queue; use "
        "--launcher=slurm, or scancel them"
      )
    slurm.record_failures(self.runs, self.home, queued)
    for run in self.runs:
      if retry or run.finished:  # perhaps by another command
        run.clear_failure()
    if self.launcher == "slurm":
      return self._submit(queued)
    jobs = [self._job(run) for run in self._due()]
    pool.run(jobs, self._settings(lock), self._trained)
    return ""

  def unfinished(self) -> list[Run]:
    """Returns the runs that still need training, and can be trained.

    Finished runs, failed runs and those that need a failed one are left out.
    """
    failed: set[str] = set()
    result = []
    for run in self.runs:
      if run.finished:
        continue
      if run.failure is not None or failed & set(run.needs):
        failed.add(run.name)
      else:
        result.append(run)
    return result

  def _due(self) -> list[Run]:
    """Returns the runs that need a command: unfinished and unwatched ones.

    On Google Cloud a run may have ended unwatched, after the sweep was stopped;
    the command deletes its machines.
    """
    due = {run.name for run in self.unfinished()}
    if self.launcher == "gcp":
      due |= {r.name for r in self.runs if r.finished and launchers.made(r)}
    return [run for run in self.runs if run.name in due]

  def _submit(self, queued: set[str]) -> str:
    due = [run for run in self.unfinished() if run.name not in queued]
    if not due and not queued:
      return ""
    if any(queued & set(run.needs) for run in due):
      raise UserError(
        f"the runs that {len(due)} others need are in Slurm's queue; run this "
        "command again when they are finished"
      )
    jobs = ", ".join(slurm.submit(due, self.home, self.launch))
    submitted = f"submitted {len(due)} runs as {jobs}; " if due else ""
    return (
      f"{submitted}{len(queued)} were in the queue; run the same command again "
      "to submit what is left, and to score the runs when all are finished"
    )

  def _job(self, run: Run) -> pool.Job:
    log = self.home / "logs" / f"{run.name}.log"
    if self.launcher == "local":
      log = pathlib.Path(run.folder) / LOG
    command = launchers.command(run, self.launcher, self.launch)
    return pool.Job(run.name, command, log, run.needs)

  def _trained(self, job: pool.Job, result: pool.Result) -> bool:
    """Returns whether a job finished its run; records a failure otherwise."""
    run = next(run for run in self.runs if run.name == job.name)
    if run.finished:
      run.clear_failure()
    elif not result.stopped:
      early = f"ended at step {run.step}, before its last"
      run.record_failure(result.line or early)
    return run.finished

  def score(self, lock: int | None) -> list[str]:
    """Scores the finished runs; returns the last lines of calls that failed."""
    settings = self._settings(lock)
    return scoring.score(self.runs, self.home, settings, self.evaluate)

  def check(self, failures: Sequence[str] = ()) -> None:
    """Raises UserError if runs, or the evaluations in `failures`, failed."""
    left = [run for run in self.runs if not run.finished]
    failed = {run.name: run.failure for run in left if run.failure is not None}
    for name, line in failed.items():
      logging.warning("%s failed: %s", name, line)
    for line in failures:
      logging.warning("scoring failed: %s", line)
    waiting = [run.name for run in left if run.name not in failed]
    if waiting:
      logging.info("not finished: %s", ", ".join(waiting))
    if failed or failures:
      again = " with --retry" if failed else ""
      raise UserError(
        f"{len(failed)} of {len(self.runs)} runs and {len(failures)} "
        f"evaluations failed; the same command{again} tries them again"
      )

  def _settings(self, lock: int | None) -> pool.Settings:
    # Runs with the same program compile it once.
    name = "JAX_COMPILATION_CACHE_DIR"
    cache = os.environ.get(name, str(self.home / ".cache"))
    kept = () if lock is None else (lock,)
    return pool.Settings(self.parallel, {name: cache}, inherit=kept)
