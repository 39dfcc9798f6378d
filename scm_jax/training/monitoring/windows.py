"""Metrics of consecutive steps: fetched from the device once, then reduced."""

from typing import Any, NamedTuple

import jax
import numpy as np

from scm_jax.objectives import diagnostics

SUMS = ("nonfinite_samples", "nonfinite_gradients")  # all others are means


class Window:
  """The metrics of steps up to `step`, on the device until they are read."""

  def __init__(self):
    self.step = 0
    self._pending: list[dict[str, Any]] = []

  @property
  def count(self) -> int:
    """The number of steps."""
    return len(self._pending)

  def add(self, step: int, metrics: dict[str, Any]) -> None:
    """Adds the metrics of a step without waiting for them."""
    self.step = step
    self._pending.append(metrics)

  def summary(self) -> dict[str, float]:
    """Returns scalars by name: means over the steps, or sums of counts.

    A metric that is kept by time becomes `name/t=CENTRE`, in radians, for each
    bin of times that had a sample.
    """
    self._pending = jax.device_get(self._pending)
    result = {}
    for name in self._pending[0]:
      if name in ("by_time", "left_out"):
        continue
      values = np.asarray([m[name] for m in self._pending], np.float64)
      reduce = np.sum if name in SUMS else np.mean
      result[name] = float(reduce(values))
    if self._pending[0].get("by_time"):
      result |= _means_by_time([m["by_time"] for m in self._pending])
    return result

  def nonfinite(self, in_a_row_before: int = 0) -> "NonfiniteSteps":
    """Returns the steps in which the gradient was not finite.

    Just before the window there were `in_a_row_before` such steps.
    """
    self._pending = jax.device_get(self._pending)
    steps, longest, in_a_row = 0, 0, in_a_row_before
    samples: list[tuple[float, int]] = []
    for metrics in self._pending:
      bad = bool(metrics["nonfinite_gradients"])
      steps, in_a_row = steps + bad, in_a_row + 1 if bad else 0
      longest = max(longest, in_a_row)
      if bad:
        left_out = metrics["left_out"]
        t, label = left_out["t"].tolist(), left_out["label"].tolist()
        samples += [pair for pair in zip(t, label, strict=True) if pair[0] >= 0]
    return NonfiniteSteps(steps, longest, in_a_row, tuple(samples))


class NonfiniteSteps(NamedTuple):
  """The steps of a window whose gradient had entries that were not finite.

  Attributes:
    steps: their number.
    longest: the most of them in a row, counting those just before the window.
    last: their number in a row at the window's end.
    samples: (t, label) of some of the samples that these steps left out.
  """

  steps: int
  longest: int
  last: int
  samples: tuple[tuple[float, int], ...]


def _means_by_time(by_time: list[dict[str, np.ndarray]]) -> dict[str, float]:
  """Divides sums over steps by the number of samples in each bin of times."""
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
