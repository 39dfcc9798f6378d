"""Metrics of a span of steps: fetched from the device once, then reduced."""

import math
from typing import Any

import jax
import numpy as np

from scm_jax.objectives.diagnostics import TIME_BINS

SUMS = ("nonfinite_samples", "nonfinite_gradients")  # counted, not averaged


class Window:
  """The metrics of consecutive steps, kept on the device until asked for."""

  def __init__(self):
    self.step = 0
    self._pending: list[dict[str, Any]] = []

  @property
  def count(self) -> int:
    """How many steps."""
    return len(self._pending)

  def add(self, step: int, metrics: dict[str, Any]) -> None:
    """Adds a step's metrics without waiting for them."""
    self.step = step
    self._pending.append(metrics)

  def summary(self) -> dict[str, float]:
    """Scalars by name: means over the steps, sums of what is counted.

    What is kept by time becomes `name/t=CENTRE`, in radians, for each bin that
    had a sample.
    """
    self._pending = jax.device_get(self._pending)
    by_time = [metrics.get("by_time", {}) for metrics in self._pending]
    result = {}
    for name in self._pending[0]:
      if name == "by_time":
        continue
      values = np.asarray([m[name] for m in self._pending], np.float64)
      reduce = np.sum if name in SUMS else np.mean
      result[name] = float(reduce(values))
    if by_time[0]:
      result |= _bins(by_time)
    return result


def _bins(by_time: list[dict[str, np.ndarray]]) -> dict[str, float]:
  totals = {
    name: np.stack([step[name] for step in by_time]).astype(np.float64).sum(0)
    for name in by_time[0]
  }
  count = totals.pop("count")
  centres = (np.arange(TIME_BINS) + 0.5) * math.pi / 2 / TIME_BINS
  return {
    f"{name}/t={centre:.2f}": float(total[i] / count[i])
    for name, total in totals.items()
    for i, centre in enumerate(centres)
    if count[i]
  }
