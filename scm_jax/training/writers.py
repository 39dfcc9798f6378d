"""Where metrics go: TensorBoard, `metrics.jsonl` and the terminal.

All are clu metric writers behind one `MultiWriter`. Importing clu imports
TensorFlow, so only the loop imports this module.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from clu import metric_writers
from etils import epath
from tqdm import tqdm

from scm_jax import files
from scm_jax.errors import UserError
from scm_jax.training import workdir


class JsonlWriter(metric_writers.MetricWriter):
  """`metrics.jsonl`: one object a line, `step` and then scalars.

  Lines of steps after `start_step` are dropped when it is opened: they are of
  updates that a killed run lost and this one makes again.
  """

  def __init__(self, path: epath.Path, start_step: int):
    self._path = path
    kept = []
    if path.exists():
      kept = [line for line in path.read_text().splitlines() if line]
      kept = [line for line in kept if _step(line) <= start_step]
      files.write_text(path, "".join(line + "\n" for line in kept))
    self._file = path.open("a")

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    values = {name: _plain(value) for name, value in scalars.items()}
    try:
      self._file.write(json.dumps({"step": step} | values) + "\n")
      self._file.flush()
    except OSError as error:
      raise UserError(
        f"cannot write {self._path}: {error.strerror}; make room and run the "
        "same command again"
      ) from error

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()

  def _ignore(self, *args, **kwargs) -> None:
    """Only scalars have a place in the file."""

  write_images = write_videos = write_audios = write_texts = _ignore
  write_histograms = write_pointcloud = write_hparams = _ignore
  write_summaries = _ignore


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


def create(path: epath.Path, start_step: int) -> metric_writers.MultiWriter:
  """The writers of a run that goes on after `start_step` updates."""
  return metric_writers.MultiWriter(
    [
      metric_writers.SummaryWriter(str(path)),
      JsonlWriter(path / workdir.METRICS, start_step),
    ]
  )


def nowhere() -> metric_writers.MultiWriter:
  """What processes other than the first write to."""
  return metric_writers.MultiWriter([])


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
