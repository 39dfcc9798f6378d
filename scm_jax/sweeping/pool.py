"""Runs commands side by side on this machine, and stops them cleanly."""

import contextlib
import dataclasses
import itertools
import logging
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent import futures
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Job:
  """One command, whose output is appended to a log.

  It starts when the jobs that it needs, by name, have succeeded.
  """

  name: str
  command: Sequence[str]
  log: pathlib.Path
  needs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Settings:
  """How commands are run.

  Attributes:
    parallel: how many run at a time, each on its share of the cores.
    environment: variables that are added to this process's.
    inherit: file descriptors that the commands keep open, such as a lock's.
  """

  parallel: int = 1
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
  inherit: tuple[int, ...] = ()


class Result(NamedTuple):
  """How a command ended.

  Attributes:
    code: its exit code, or minus the signal that killed it.
    line: the last line of its output, if it failed.
    stopped: whether a signal to this process stopped it.
  """

  code: int
  line: str
  stopped: bool


class _Children:
  """Processes that end when this one is told to.

  The first Ctrl-C or SIGTERM asks all of them to save and end; the second one
  kills them. Each is in a process group of its own, so that a terminal's Ctrl-C
  reaches this process alone.
  """

  def __init__(self):
    self.signals = 0
    self._running: set[subprocess.Popen] = set()

  @contextlib.contextmanager
  def guarded(self) -> Generator[None]:
    """Handles signals, and leaves no process running after an exception."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, self._handle) for number in numbers}
    try:
      yield
    finally:
      self._send(signal.SIGTERM)
      for number, handler in before.items():
        signal.signal(number, handler)

  def call(self, command: Sequence[str], **options) -> int:
    """Runs a command to its end; returns its exit code."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    self._running.add(process)
    if self.signals:  # one came while the process started
      self._send(signal.SIGTERM)
    code = process.wait()
    self._running.remove(process)
    return code

  def _handle(self, number: int, frame) -> None:
    self.signals += 1
    if self.signals == 1:
      logging.info("stopping after the runs have saved; again: stop at once")
    self._send(signal.SIGTERM if self.signals == 1 else signal.SIGKILL)

  def _send(self, number: int) -> None:
    for process in tuple(self._running):
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def run(
  jobs: Sequence[Job],
  settings: Settings,
  done: Callable[[Job, Result], bool],
) -> None:
  """Runs jobs in their order, but a job only after those that it needs.

  Those come before it; if one has failed, the job is left out. `done` is called
  when a job has ended, and returns whether it has succeeded.

  Raises:
    KeyboardInterrupt: a signal stopped the jobs, after they saved.
  """
  waiting, failed = list(jobs), set()
  running: dict[futures.Future[Result], Job] = {}
  slots, children = itertools.count(), _Children()
  workers = futures.ThreadPoolExecutor(
    settings.parallel,
    initializer=lambda: _bind(next(slots), settings.parallel),
  )
  with workers, children.guarded():
    while running or (waiting and not children.signals):
      unfinished = {job.name for job in (*waiting, *running.values())}
      ready = [job for job in waiting if unfinished.isdisjoint(job.needs)]
      free = 0 if children.signals else settings.parallel - len(running)
      for job in ready[:free]:
        waiting.remove(job)
        running[workers.submit(_run, job, settings, children)] = job
      ended, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
      for future in ended:
        job = running.pop(future)
        if not done(job, future.result()):
          failed.add(job.name)
        elif not children.signals:
          logging.info("%d to go", len(waiting) + len(running))
      for job in list(waiting):  # in order, so that its needs come first
        if failed.intersection(job.needs):
          waiting.remove(job)
          failed.add(job.name)
  if children.signals:
    raise KeyboardInterrupt


def _run(job: Job, settings: Settings, children: _Children) -> Result:
  """Runs one job, and logs when it starts and how it ends."""
  job.log.parent.mkdir(parents=True, exist_ok=True)
  logging.info("%s: started; its log: %s", job.name, job.log)
  start = time.monotonic()
  with open(job.log, "a+b") as log:
    offset = log.seek(0, os.SEEK_END)
    code = children.call(
      job.command,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      env={**os.environ, **settings.environment},
      pass_fds=settings.inherit,
    )
    end = log.seek(0, os.SEEK_END)
    log.seek(max(offset, end - 10_000))
    line = _last_line(log.read().decode(errors="replace"), code)
  minutes, seconds = divmod(int(time.monotonic() - start), 60)
  took = f"after {minutes} min {seconds:02d} s"
  ending = f"failed {took}: {line}" if code else f"done {took}"
  logging.info(f"{job.name}: {'stopped' if children.signals else ending}")
  return Result(code, line, bool(children.signals))


def _last_line(output: str, code: int) -> str:
  """Returns the last line of a command that failed, or what ended it."""
  if not code:
    return ""
  lines = [line.strip() for line in output.split("\n") if line.strip()]
  if code > 0:
    return lines[-1] if lines else f"exit code {code} without any output"
  killed = f"killed by {signal.Signals(-code).name}"
  return f"{killed} after: {lines[-1]}" if lines else killed


def _bind(slot: int, parallel: int) -> None:
  """Binds this thread, and the processes it starts, to a share of the cores.

  XLA makes as many threads as a process has cores. Some systems cannot (macOS).
  """
  if parallel > 1 and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, share(cores, slot, parallel))


def share(cores: Sequence[int], slot: int, parallel: int) -> set[int]:
  """Returns a slot's cores; with fewer cores than slots, one for each slot."""
  if parallel >= len(cores):
    return {cores[slot % len(cores)]}
  low, high = (k * len(cores) // parallel for k in (slot, slot + 1))
  return set(cores[low:high])
