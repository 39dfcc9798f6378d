"""Traces a few steps now and then, for TensorBoard's profile plugin."""

import logging
import math
import os
import time
from typing import Any, Self

import jax

STEPS = 5  # the least number of steps of a trace
INTERVAL = 3600.0  # seconds between the starts of two traces


class Profiler:
  """A hook that is called with every step and traces a few of them.

  The first trace begins after the step `first`, and one more every hour after
  that. Each takes at least 5 steps and `seconds`, or lasts to the end of the
  run, and goes to FOLDER/plugins/profile. It is a context manager: a trace that
  has begun is written however the run ends.
  """

  def __init__(
    self, folder: os.PathLike[str], first: int, *, seconds: float = 3.0
  ):
    self._folder, self._next_step = os.fspath(folder), first
    self._seconds = seconds
    self._next_clock = math.inf  # when a later trace is to begin
    self._began: tuple[int, float] | None = None  # step and clock

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: Any) -> None:
    if self._began:
      self._stop()

  def __call__(self, step: int) -> None:
    now = time.monotonic()
    if self._began:
      first, clock = self._began
      if step >= first + STEPS and now >= clock + self._seconds:
        self._stop()
    elif step == self._next_step or now >= self._next_clock:
      self._start(step, now)

  def _start(self, step: int, now: float) -> None:
    self._next_clock = now + INTERVAL
    try:
      jax.profiler.start_trace(self._folder)
      self._began = step, now
    except Exception as error:  # a run is worth more than its trace
      logging.warning("cannot trace step %d: %s", step, error)

  def _stop(self) -> None:
    self._began = None
    try:
      jax.profiler.stop_trace()
    except Exception as error:
      logging.warning("cannot write a trace to %s: %s", self._folder, error)
