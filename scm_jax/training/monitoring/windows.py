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

  @property
  def last(self) -> "Window":
    """The newest step, as a window of its own."""
    found = Window()
    found.step, found._pending = self.step, self._pending[-1:]
    return found

  def add(self, step: int, metrics: dict[str, Any]) -> None:
    """Adds the metrics of a step without waiting for them."""
    self.step = step
    self._pending.append(metrics)

  def summary(self) -> dict[str, float]:
    """Returns scalars by name: means over the steps, or sums of counts.

    A metric that is kept by time becomes `name/t=CENTRE`, in radians, for each
    bin of times that had a sample; and one that is kept by both times of jumps
    `name/t=CENTRE,s=CENTRE`.
    """
    self._pending = jax.device_get(self._pending)
    result = {}
    for name in self._pending[0]:
      if name in ("by_time", "by_jump", "left_out"):
        continue
      values = np.asarray([m[name] for m in self._pending], np.float64)
      reduce = np.sum if name in SUMS else np.mean
      result[name] = float(reduce(values))
    for name in ("by_time", "by_jump"):
      if self._pending[0].get(name):
        result |= _means_by_bin([m[name] for m in self._pending])
    return result

  def nonfinite(self, in_a_row_before: int) -> "NonfiniteSteps":
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


def _means_by_bin(binned: list[dict[str, np.ndarray]]) -> dict[str, float]:
  """Divides sums over steps by the number of samples in each bin of times."""
  totals = {
    name: np.stack([step[name] for step in binned]).astype(np.float64).sum(0)
    for name in binned[0]
  }
  count = totals.pop("count")
  centres = diagnostics.centres(len(count))

  def label(place):
    pairs = zip("ts", place, strict=False)  # t alone, or t and s
    return ",".join(f"{time}={centres[i]:.2f}" for time, i in pairs)

  return {
    f"{name}/{label(place)}": float(total[place] / count[place])
    for name, total in totals.items()
    for place in np.ndindex(count.shape)
    if count[place]
  }
