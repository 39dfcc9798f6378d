"""Stopping on a signal: finish the step, save, leave."""

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopSignal:
  """Within it, SIGTERM and the first Ctrl-C only ask the loop to stop.

  Clusters send SIGTERM before they take a machine away. A second Ctrl-C
  interrupts at once.
  """

  def __init__(self):
    self.requested: int = 0
    self._before = {}

  def __enter__(self) -> "StopSignal":
    # Of several processes, JAX listens for the SIGTERM of any.
    if jax.process_count() == 1:
      for number in (signal.SIGTERM, signal.SIGINT):
        self._before[number] = signal.signal(number, self._handle)
    return self

  def asked(self, step: int) -> bool:
    """Whether to stop after `step`: the same step on all processes.

    Several processes have to ask at every step.
    """
    if jax.process_count() == 1:
      return bool(self.requested)
    return multihost_utils.reached_preemption_sync_point(step)

  def __exit__(self, *error) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and self.requested:
      raise KeyboardInterrupt
    self.requested = number
