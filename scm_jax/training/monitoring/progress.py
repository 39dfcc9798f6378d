"""Shows the progress of a training: a bar on a terminal, lines in a log."""

import logging
import math
import sys
import time

import jax
from tqdm import tqdm


class Progress:
  """A progress bar on a terminal, plain lines with an ETA in a log."""

  def __init__(self, start: int, total: int):
    """Starts the clock after `start` of the training's `total` steps."""
    self._total, self._step = total, start
    self._clock, self._clock_step = time.monotonic(), start
    self._bar = None
    if sys.stderr.isatty() and jax.process_index() == 0:
      self._bar = tqdm(total=total, initial=start, unit="step")

  def advance(self) -> None:
    """Counts a step."""
    self._step += 1
    if self._bar:
      self._bar.update()

  def report(self, step: int, loss: float) -> float:
    """Shows a step and its loss; returns the rate since the last report.

    It is NaN if a pause has left out all steps since then.
    """
    now = time.monotonic()
    steps = step - self._clock_step
    rate = steps / max(now - self._clock, 1e-9) if steps else math.nan
    self._clock, self._clock_step = now, step
    if self._bar:
      self._bar.set_postfix_str(f"loss {loss:.4g}")
      return rate
    line = f"step {step} of {self._total}, loss {loss:.4g}"
    if steps:
      minutes, seconds = divmod(int((self._total - step) / rate), 60)
      line += f", {rate:.1f} steps/s, ETA {minutes}:{seconds:02d}"
    logging.info(line)
    return rate

  def pause(self) -> None:
    """Leaves the time and the steps since the last report out of the rate."""
    self._clock, self._clock_step = time.monotonic(), self._step

  def close(self) -> None:
    """Ends the bar."""
    if self._bar:
      self._bar.close()
