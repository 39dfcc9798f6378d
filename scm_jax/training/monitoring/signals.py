"""Stops a training on a signal: it finishes the step, saves and leaves."""

import os
import signal
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils


class StopSignal:
  """A context manager in which a signal only asks the training to stop.

  It handles SIGTERM, which clusters send before they take a machine away, and
  the first Ctrl-C. A second Ctrl-C interrupts at once. Where there are several
  processes, JAX itself listens for a SIGTERM to any of them, and Ctrl-C sends
  one.
  """

  def __init__(self):
    self.requested: int = 0  # the number of the signal that came
    self._previous = {}

  def __enter__(self) -> Self:
    alone = jax.process_count() == 1
    numbers = (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,)
    for number in numbers:
      self._previous[number] = signal.signal(number, self._handle)
    return self

  def asked(self, step: int) -> bool:
    """Returns whether to stop after `step`, the same step on all processes.

    Where there are several processes, it must be called at every step.
    """
    if jax.process_count() == 1:
      return bool(self.requested)
    return multihost_utils.reached_preemption_sync_point(step)

  def __exit__(self, *error: Any) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and self.requested:
      raise KeyboardInterrupt
    self.requested = number
    if jax.process_count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)
