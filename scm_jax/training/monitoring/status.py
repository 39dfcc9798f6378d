"""Says where a run stands, from the files that its training writes.

`metrics.jsonl` has the newest numbers. TensorBoard's event files have the clock
times of all processes that worked on the run, and of steps that a kill undid.
Nothing is written or locked, so that the training may go on meanwhile.
"""

import itertools
import json
import math
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath
from tensorboard.compat.proto import event_pb2
from tensorboard.util import tensor_util

from scm_jax import errors, files
from scm_jax.errors import UserError

# The names of files are written out here, because the modules that write them
# import JAX, without which this answers in a second.
RATE = "steps_per_second"
COUNTS = ("nonfinite_samples", "nonfinite_gradients")
# A run counts as silent when its last sign of life is older than PATIENCE times
# the longest interval between two of them, and than LEAST seconds; before its
# first metrics, when it may be compiling, than COMPILING seconds.
PATIENCE, LEAST, COMPILING = 3, 120.0, 3600.0


class Part(NamedTuple):
  """Steps of one process whose metrics were written together.

  Attributes:
    first: the number of steps before them.
    last: the last of them.
    seconds: what they took, without checkpoints, samples and scores.
    written: when their metrics were written, in Unix seconds.
  """

  first: int
  last: int
  seconds: float
  written: float

  def until(self, step: float) -> float:
    """Returns the seconds of those that are not after `step`."""
    count = min(self.last, step) - self.first
    return self.seconds * max(count, 0) / (self.last - self.first)


class Process(NamedTuple):
  """A process that worked on a run.

  Attributes:
    start: the step that it went on from.
    signs: the times of all that it wrote, in Unix seconds, in order.
    parts: its steps.
  """

  start: int
  signs: list[float]
  parts: list[Part]

  @property
  def seconds(self) -> float:
    """The time from its first sign of life to its last."""
    return max(self.signs[-1] - self.signs[0], 0.0)  # a clock may be set back

  @property
  def starting(self) -> float:
    """The seconds before its first step; all if no metrics were written."""
    if not self.parts:
      return self.seconds
    first = self.parts[0]
    return max(first.written - self.signs[0] - first.seconds, 0.0)


def runs(folder: str) -> list[str]:
  """Returns the workdirs that lie in a folder, or the folder itself."""
  path = epath.Path(folder)
  inside = sorted(str(file.parent) for file in path.glob("*/metrics.jsonl"))
  if (path / "config.json").exists() or not inside:
    return [folder]
  return inside


def status(folder: str, now: float | None = None) -> dict[str, Any]:
  """Returns where the run of a workdir stands, its goodput and its health.

  Args:
    folder: the workdir.
    now: Unix seconds; None is the time of the clock.

  Returns:
    A dict for JSON, with the keys that docs/curves.md explains. What is not
    known, such as the speed before the first metrics, is None.

  Raises:
    UserError: the folder is no workdir of a run, or a file is damaged.
  """
  path = epath.Path(folder)
  config, lines = _config(path), _metrics(path)
  processes = _processes(path)
  last: Mapping[str, Any] = next((x for x in lines[::-1] if RATE in x), {})
  kept = max(files.saved_steps(path / "checkpoints"), default=None)
  step = max(last.get("step", 0), kept or 0)
  total, rate = config["total_steps"], last.get(RATE)
  now = time.time() if now is None else now
  # What the last step owes is done when the run goes on.
  done = (
    kept is not None and kept >= total and not (path / "owed.json").exists()
  )
  found = {
    "workdir": folder,
    "objective": config["run"],
    "state": "complete" if done else _state(processes, now),
    "step": step,
    "total_steps": total,
    "checkpoint": kept,
    "loss": last.get("loss"),
    RATE: rate,
    "seconds_left": max(total - step, 0) / rate if rate else None,
    # Clocks differ, so that the last sign may be in the future.
    "seconds_silent": max(now - processes[-1].signs[-1], 0.0)
    if processes
    else None,
    **goodput(processes),
    **{name: sum(x.get(name) or 0 for x in lines) for name in COUNTS},
    "damaged_checkpoints": len(files.saved_steps(path / "checkpoints_damaged")),
  }
  return found | {"warnings": list(_warnings(found, bool(last)))}


def goodput(processes: Sequence[Process]) -> dict[str, Any]:
  """Returns which part of a run's time went into steps that it kept.

  A step that was done again, after a kill undid it, counts once. `seconds_of`
  has the times that add up to `seconds`: `steps` are the kept ones, `repeated`
  the others; `starting` is compilation and reading; `other` is checkpoints,
  samples and scores; `stopped` is the time without a process.
  """
  if not processes:
    return dict.fromkeys(("processes", "seconds", "seconds_of", "goodput"))
  done, kept, until = 0.0, 0.0, math.inf
  for process in processes[::-1]:
    done += sum(part.seconds for part in process.parts)
    kept += sum(part.until(until) for part in process.parts)
    until = min(until, process.start)
  starting = sum(process.starting for process in processes)
  running = sum(process.seconds for process in processes)
  seconds = max(processes[-1].signs[-1] - processes[0].signs[0], running)
  times = {
    "steps": kept,
    "repeated": done - kept,
    "starting": starting,
    "other": max(running - starting - done, 0.0),
    "stopped": max(seconds - running, 0.0),
  }
  return {
    "processes": len(processes),
    "seconds": seconds,
    "seconds_of": times,
    "goodput": kept / seconds if seconds else None,
  }


def _state(processes: Sequence[Process], now: float) -> str:
  if not processes:
    return "silent"
  newest = processes[-1]
  intervals = [
    later - earlier
    for process in processes
    for earlier, later in itertools.pairwise(process.signs)
  ]
  least = LEAST if newest.parts else COMPILING
  patience = max(least, PATIENCE * max(intervals, default=0.0))
  return "running" if now - newest.signs[-1] <= patience else "silent"


def _warnings(found: Mapping[str, Any], trained: bool) -> Iterator[str]:
  """Yields what a user should look at, in sentences."""
  if found["state"] == "silent":
    yield (
      "nothing was written lately; the training has stopped or hangs, and its "
      f"command goes on from step {found['checkpoint'] or 0}"
    )
  if trained and found["loss"] is None:
    yield "the loss is not finite"
  if count := found["nonfinite_samples"]:
    yield f"{count:.0f} samples were left out, because they were not finite"
  if count := found["nonfinite_gradients"]:
    yield f"{count:.0f} entries of gradients were not finite, and set to zero"
  if count := found["damaged_checkpoints"]:
    yield f"{count} damaged checkpoints were set aside"
  times = found["seconds_of"] or {"repeated": 0.0}
  if times["repeated"] > 0.05 * (found["seconds"] or 0.0):
    yield (
      f"{times['repeated'] / found['seconds']:.0%} of the time went into steps "
      "that were lost with their process; a smaller checkpoint_every loses less"
    )


def _config(path: epath.Path) -> dict[str, Any]:
  file = path / "config.json"
  if not file.exists():
    raise UserError(f"{path} is not a workdir: it has no {file.name}")
  with errors.reading(file):
    config = json.loads(file.read_text())
    if config and "total_steps" in config:
      config["total_steps"] = int(config["total_steps"])
  if not {"run", "total_steps"} <= set(config or ()):
    raise UserError(f"{path} is not a workdir: its {file.name} is not a run's")
  if (path / "origin.json").exists():
    raise UserError(f"{path} holds weights from elsewhere, not a run")
  return config


def _metrics(path: epath.Path) -> list[dict[str, Any]]:
  """Returns the lines of `metrics.jsonl` that are whole, numbers alone."""
  file = path / "metrics.jsonl"
  if not file.exists():
    return []
  with errors.reading(file):
    lines = file.read_bytes().decode(errors="replace").splitlines()
  found = []
  for number, line in enumerate(lines, start=1):
    with errors.reading(f"{file}, line {number}"):
      if line.endswith("}"):
        known = json.loads(line).items()
        found.append({k: x for k, x in known if _is_number(x)})
  return found


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and math.isfinite(value)


def _processes(path: epath.Path) -> list[Process]:
  """Returns the processes of a run, the first one first."""
  found: list[Process] = []
  marked = False
  for file in sorted(path.glob("events.out.tfevents.*"), key=str):
    with errors.reading(file):
      events = list(_events(file.read_bytes()))
    starts = [e.step - 1 for e in events if e.HasField("session_log")]
    marked = marked or bool(starts)
    # Earlier versions did not mark starts; each file was one, but for the long.
    if events and (starts or not marked):
      done = [part.last for process in found for part in process.parts]
      first = next((e.step for e in events if _rate(e)), 0)
      guess = max((step for step in done if step < first), default=0)
      found.append(Process(starts[0] if starts else guess, [], []))
    for event in events:
      _add(found[-1], event)
  return found


def _rate(event: event_pb2.Event) -> float | None:
  """Returns the steps per second that an event tells, if it does."""
  for value in event.summary.value:
    if value.tag == RATE:
      return float(tensor_util.make_ndarray(value.tensor))
  return None


def _add(process: Process, event: event_pb2.Event) -> None:
  """Adds what one event tells to a process."""
  process.signs.append(event.wall_time)
  first = process.parts[-1].last if process.parts else process.start
  rate = _rate(event) or 0.0
  if rate > 0 and event.step > first:  # NaN if no step was timed
    seconds = (event.step - first) / rate
    process.parts.append(Part(first, event.step, seconds, event.wall_time))


def _events(data: bytes) -> Iterator[event_pb2.Event]:
  """Yields the events of a file that are whole."""
  place = 0
  while place + 12 <= len(data):  # a length of 8 bytes, and its checksum
    [length] = struct.unpack_from("<Q", data, place)
    end = place + 12 + length
    if not length or end + 4 > len(data):  # a crash may leave zeros
      return
    yield event_pb2.Event.FromString(data[place + 12 : end])
    place = end + 4
