"""Commands side by side on this machine: bounded, logged, stopped cleanly."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

_POLL = 0.1  # seconds between looks at the children


@dataclasses.dataclass(frozen=True)
class Job:
  """One command.

  Attributes:
    name: what messages call it.
    command: makes the words, given the slot (0, 1, ...) that it runs in.
    log: where its output goes, after what is there.
    needs: names of the jobs that must have succeeded first.
  """

  name: str
  command: Callable[[int], Sequence[str]]
  log: pathlib.Path
  needs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Settings:
  """How commands are run.

  Attributes:
    parallel: how many at a time; each then has its share of the cores.
    environment: added to this process's.
    inherit: open files that the commands keep open, such as a lock.
  """

  parallel: int = 1
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
  inherit: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Ended:
  """How a job ended.

  Attributes:
    code: its exit code; minus the signal that killed it.
    line: the last line of its output.
    stopped: whether it was asked to end.
  """

  code: int
  line: str
  stopped: bool = False


class Children:
  """Children in process groups of their own, which signals are passed on to.

  Within it, the first Ctrl-C or SIGTERM asks all children to save and end; the
  second kills them.
  """

  def __init__(self):
    self.asked = 0
    self._running: dict[int, subprocess.Popen] = {}  # by slot
    self._before = {}

  def __enter__(self) -> "Children":
    for number in (signal.SIGINT, signal.SIGTERM):
      self._before[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *error) -> None:
    # Nothing is left running when something else went wrong here.
    self._tell(signal.SIGTERM)
    for child in self._running.values():
      child.wait()
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def start(
    self, slot: int, words: Sequence[str], log: IO[bytes], settings: Settings
  ) -> None:
    self._running[slot] = subprocess.Popen(
      words,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      env={**os.environ, **settings.environment},
      pass_fds=settings.inherit,
      start_new_session=True,
    )
    if self.asked:  # between the last look and now
      self._tell(signal.SIGTERM)

  def ended(self) -> dict[int, int]:
    """Exit codes of the children that have ended, by slot."""
    codes = {slot: child.poll() for slot, child in self._running.items()}
    done = {slot: code for slot, code in codes.items() if code is not None}
    for slot in done:
      del self._running[slot]
    return done

  def _handle(self, number: int, frame) -> None:
    self.asked += 1
    if self.asked == 1:
      logging.info("stopping: the runs save; again to stop at once")
    self._tell(signal.SIGTERM if self.asked == 1 else signal.SIGKILL)

  def _tell(self, number: int) -> None:
    for child in self._running.values():
      with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def run(
  jobs: Sequence[Job],
  settings: Settings,
  done: Callable[[Job, Ended], bool],
) -> bool:
  """Runs jobs, in their order as far as they can; not those whose needs failed.

  Args:
    jobs: those that a job needs come before it.
    settings: how many at a time, and how.
    done: called when a job has ended; says whether it has succeeded.

  Returns:
    False when a signal stopped it.
  """
  waiting, running, failed = list(jobs), {}, set()
  started: dict[str, tuple[float, int]] = {}  # when, and where its log begins
  with Children() as children:
    while running or (waiting and not children.asked):
      for job in [] if children.asked else list(waiting):
        if failed.intersection(job.needs):
          waiting.remove(job)
          failed.add(job.name)
          continue
        slot = _free_slot(running, settings.parallel)
        open_needs = {other.name for other in (*waiting, *running.values())}
        if slot is None or open_needs.intersection(job.needs):
          continue
        waiting.remove(job)
        running[slot] = job
        started[job.name] = time.monotonic(), _size(job.log)
        _start(children, job, slot, settings)
      time.sleep(_POLL)
      for slot, code in children.ended().items():
        job = running.pop(slot)
        begun, offset = started[job.name]
        stopped = bool(children.asked)
        line = _last_line(job.log, offset, code) if code else ""
        left = len(waiting) + len(running)
        _report(job, code, line, time.monotonic() - begun, left, stopped)
        if not done(job, Ended(code, line, stopped)):
          failed.add(job.name)
    return not children.asked


def _free_slot(running: Mapping[int, Job], parallel: int) -> int | None:
  return next((slot for slot in range(parallel) if slot not in running), None)


def _start(children: Children, job: Job, slot: int, settings: Settings) -> None:
  job.log.parent.mkdir(parents=True, exist_ok=True)
  words = list(job.command(slot))
  logging.info("%s: started; its log: %s", job.name, job.log)
  with open(job.log, "ab") as log, _share(slot, settings.parallel):
    children.start(slot, words, log, settings)


@contextlib.contextmanager
def _share(slot: int, parallel: int):
  """What is started within it sees its share of the cores alone.

  XLA makes as many threads as a process has cores. Where a system does not
  divide them (macOS), all runs see all.
  """
  if parallel == 1 or not hasattr(os, "sched_setaffinity"):
    yield
    return
  mine = os.sched_getaffinity(0)
  os.sched_setaffinity(0, share(sorted(mine), slot, parallel))
  try:
    yield
  finally:
    os.sched_setaffinity(0, mine)


def share(cores: Sequence[int], slot: int, parallel: int) -> set[int]:
  """The cores of one slot of several; with fewer cores than slots, one each."""
  if parallel >= len(cores):
    return {cores[slot % len(cores)]}
  low, high = (k * len(cores) // parallel for k in (slot, slot + 1))
  return set(cores[low:high])


def _size(path: pathlib.Path) -> int:
  return path.stat().st_size if path.exists() else 0


def _last_line(log: pathlib.Path, offset: int, code: int) -> str:
  """The last words of a command that failed, or what ended it."""
  with open(log, "rb") as file:
    file.seek(max(offset, _size(log) - 10_000))
    lines = file.read().decode(errors="replace").split("\n")
  line = next((x.strip() for x in reversed(lines) if x.strip()), "")
  if code < 0:
    name = signal.Signals(-code).name
    return f"killed by {name}" + (f" after: {line}" if line else "")
  return line or f"ended with exit code {code} and no word"


def _report(job, code, line, seconds, left, stopped) -> None:
  took = f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
  if stopped:
    logging.info("%s: stopped", job.name)
  elif code:
    logging.info("%s: failed after %s: %s", job.name, took, line)
  else:
    logging.info("%s: done in %s; %d to go", job.name, took, left)
