"""Metrics of a span of steps: fetched from the device once, then reduced."""

from typing import Any, NamedTuple

import jax
import numpy as np

from scm_jax.objectives import diagnostics

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
      if name in ("by_time", "left_out"):
        continue
      values = np.asarray([m[name] for m in self._pending], np.float64)
      reduce = np.sum if name in SUMS else np.mean
      result[name] = float(reduce(values))
    if by_time[0]:
      result |= _bins(by_time)
    return result

  def spoilt(self, before: int = 0) -> "Spoilt":
    """Says in which steps the gradient was not finite.

    Args:
      before: steps in a row up to this window for which it was not.
    """
    self._pending = jax.device_get(self._pending)
    steps, longest, run = 0, 0, before
    samples: list[tuple[float, int]] = []
    for metrics in self._pending:
      bad = bool(metrics["nonfinite_gradients"])
      steps, run = steps + bad, run + 1 if bad else 0
      longest = max(longest, run)
      if bad:
        told = metrics["left_out"]
        known = zip(told["t"].tolist(), told["label"].tolist(), strict=True)
        samples += [pair for pair in known if pair[0] >= 0]
    return Spoilt(steps, longest, run, tuple(samples))


class Spoilt(NamedTuple):
  """Steps of a window whose gradient had entries that were not finite.

  Attributes:
    steps: how many.
    longest: most in a row, those before the window included.
    last: in a row up to the window's end.
    samples: (t, label) of samples that those steps left out, some of each.
  """

  steps: int
  longest: int
  last: int
  samples: tuple[tuple[float, int], ...]


def _bins(by_time: list[dict[str, np.ndarray]]) -> dict[str, float]:
  totals = {
    name: np.stack([step[name] for step in by_time]).astype(np.float64).sum(0)
    for name in by_time[0]
  }
  count = totals.pop("count")
  return {
    f"{name}/t={centre:.2f}": float(total[i] / count[i])
    for name, total in totals.items()
    for i, centre in enumerate(diagnostics.centres())
    if count[i]
  }
