"""Where metrics go: TensorBoard, `metrics.jsonl` and the terminal."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from scm_jax.errors import UserError
from scm_jax.training import workdir
from scm_jax.training.monitoring.append_file import GrowingFile
from scm_jax.training.monitoring.events import EventWriter


class Writer(Protocol):
  """Takes metrics; all methods raise UserError if a file cannot be written."""

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes the scalars of a step, by name."""

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Writes pictures by name, each uint8 [N, H, W, C]."""

  def flush(self) -> None:
    """Makes what was written readable by others, if it is not yet."""

  def close(self) -> None:
    """Flushes, and ends the writing."""


class JsonlWriter:
  """`metrics.jsonl`: one object a line, `step` and then scalars.

  Lines of steps after `start_step` are dropped when it is opened: they are of
  updates that a killed run lost and this one makes again.
  """

  def __init__(self, path: epath.Path, start_step: int):
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line and _step(line) <= start_step]
    self._file = GrowingFile(path, "".join(x + "\n" for x in kept).encode())

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    values = {name: _plain(value) for name, value in scalars.items()}
    line = json.dumps({"step": step} | values) + "\n"
    self._file.write(line.encode())

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Only scalars have a place in the file."""

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def _step(line: str) -> float:
  """The step of a line; a line cut short by a kill belongs to no step."""
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError, TypeError):
    return float("inf")


def _plain(value: Any) -> float | int | None:
  """A JSON number; JSON has no NaN and no infinity, so those become null."""
  value = np.asarray(value).item()
  return value if np.isfinite(value) else None


class MultiWriter:
  """Writes to several writers, and closes them however a block is left."""

  def __init__(self, writers: Sequence[Writer]):
    self._writers = writers

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    for writer in self._writers:
      writer.write_scalars(step, scalars)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    for writer in self._writers:
      writer.write_images(step, images)

  def flush(self) -> None:
    for writer in self._writers:
      writer.flush()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    """Closes all; an error that is under way is not replaced by another."""
    with contextlib.ExitStack() as stack:
      if kind is not None:
        stack.enter_context(contextlib.suppress(UserError))
      for writer in self._writers:
        stack.callback(writer.close)


def create(path: epath.Path, start_step: int) -> MultiWriter:
  """The writers of a run that goes on after `start_step` updates."""
  lines = JsonlWriter(path / workdir.METRICS, start_step)
  return MultiWriter([EventWriter(path), lines])


def nowhere() -> MultiWriter:
  """What processes other than the first write to."""
  return MultiWriter([])


class Progress:
  """A progress bar on a terminal, plain lines with an ETA in a log."""

  def __init__(self, start: int, total: int):
    self._total, self._start = total, start
    self._clock, self._clock_step = time.monotonic(), start
    self._bar = None
    if sys.stderr.isatty() and jax.process_index() == 0:
      self._bar = tqdm(total=total, initial=start, unit="step")

  def advance(self) -> None:
    if self._bar:
      self._bar.update()

  def report(self, step: int, loss: float) -> float:
    """Says where the run is; returns steps per second since the last call."""
    now = time.monotonic()
    rate = (step - self._clock_step) / max(now - self._clock, 1e-9)
    self._clock, self._clock_step = now, step
    if self._bar:
      self._bar.set_postfix_str(f"loss {loss:.4g}")
      return rate
    left = int((self._total - step) / max(rate, 1e-9))
    logging.info(
      "step %d of %d, loss %.4g, %.1f steps/s, ETA %d:%02d",
      *(step, self._total, loss, rate, left // 60, left % 60),
    )
    return rate

  def pause(self) -> None:
    """Leaves what comes next (samples, saving) out of the rate."""
    self._clock = time.monotonic()

  def close(self) -> None:
    if self._bar:
      self._bar.close()
