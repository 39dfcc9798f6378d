"""Statistics of a set of images, gathered batch by batch in float64.

An extractor's outputs come from the devices in float32, a batch at a time. They
are summarised here, on the host, in float64: for the moments of d features of a
batch of B images that takes 2 B d^2 operations, thousands of times fewer than
the network that made the features. Float32 sums on the device would be off by
more than the distances between good models, and TPUs have no float64. Batches
are added in the order of their samples, whichever device computed them.

What compares single features (kernel distances, neighbours) gets those of a
random choice of samples, which is fixed before any sample is seen.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics import registry
from scm_jax.metrics.statistic import Arrays, Batch, Statistics

KEPT = 10_000  # samples whose features are kept, by default


def choose_kept(total: int, keep: int, seed: int = 0) -> np.ndarray:
  """Chooses the samples whose features are kept.

  They are drawn at random, since datasets are sorted and labels periodic.

  Args:
    total: number of samples.
    keep: number of samples to choose, at most.
    seed: seed of the choice.

  Returns:
    [total] bool.
  """
  mask = np.zeros(total, bool)
  if keep >= total:
    mask[:] = True
  else:
    rng = np.random.default_rng([seed, total])
    mask[rng.choice(total, keep, replace=False)] = True
  return mask


class Accumulator:
  """Accumulates the statistics of one extractor over consecutive samples.

  Attributes:
    count: number of samples added so far.
  """

  def __init__(
    self, total: int, keep: int = KEPT, samples: range | None = None
  ):
    """Begins with no samples.

    Args:
      total: number of samples in the whole set.
      keep: number of samples of the set whose features are kept.
      samples: the samples that are added here, in order; by default all.
    """
    self.count = 0
    self._total = total
    self._samples = range(total) if samples is None else samples
    self._kept = choose_kept(total, keep)
    self._merger = _Merger()

  def add(self, outputs: Mapping[str, np.ndarray]) -> None:
    """Adds the extractor's outputs [n, ...] of the next n samples.

    Raises:
      UserError: a feature is not finite.
    """
    count = len(outputs["features"])
    first = self._samples.start + self.count
    batch = Batch(first, self._total, self._kept[first : first + count])
    self._merger.append(_summarize(outputs, batch))
    self.count += count

  def result(self) -> Statistics:
    """Returns the statistics of all its samples.

    Raises:
      UserError: some have not been added.
    """
    if self.count != len(self._samples):
      raise UserError(
        f"only {self.count} of {len(self._samples)} samples were computed"
      )
    return self._merger.merged()

  def to_arrays(self) -> Arrays:
    """Returns the statistics of the samples so far as arrays."""
    count = {"count": np.asarray(self.count)}
    return to_arrays(self._merger.merged()) | count

  def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Replaces the samples so far by those of which arrays were saved.

    Raises:
      ValueError: they are more than are to be added here.
    """
    count = int(arrays["count"])
    if count > len(self._samples):
      raise ValueError(
        f"{count} samples were saved, of {len(self._samples)} expected"
      )
    self.count, self._merger = count, _Merger()
    self._merger.append(from_arrays(arrays))


class _Merger:
  """Merges the statistics of parts that follow each other."""

  def __init__(self):
    self._parts: dict[str, list[Any]] = {}

  def append(self, statistics: Statistics) -> None:
    """Appends a part."""
    known = registry.statistics()
    for name, summary in statistics.items():
      parts = self._parts.setdefault(name, [])
      parts.append(summary)
      if not known[name].merge_last:
        parts[:] = [known[name].merge(parts)]

  def merged(self) -> Statistics:
    """Returns the statistics of all parts."""
    known = registry.statistics()
    return {name: known[name].merge(self._parts[name]) for name in self._parts}


def merge(parts: Iterable[Statistics]) -> Statistics:
  """Merges the statistics of parts of a set, which follow each other.

  Where a set is cut changes its moments and class sums by rounding, and its
  kept features not at all. The parts are taken one at a time; a part without
  samples has no statistics.
  """
  merger = _Merger()
  for part in parts:
    merger.append(part)
  return merger.merged()


def summarize_features(features: np.ndarray) -> Statistics:
  """Returns the statistics of features [n, d], all of which are kept."""
  count = len(features)
  batch = Batch(0, count, np.ones(count, bool))
  return _summarize({"features": features}, batch)


def _summarize(outputs: Mapping[str, np.ndarray], batch: Batch) -> Statistics:
  """Returns the statistics of a batch that an extractor's outputs allow."""
  return {
    statistic.name: statistic.summarize(outputs[statistic.output], batch)
    for statistic in registry.statistics(outputs).values()
  }


def to_arrays(statistics: Statistics) -> Arrays:
  """Returns statistics as arrays, from which `from_arrays` makes them again."""
  known, arrays = registry.statistics(), Arrays()
  for name, summary in statistics.items():
    arrays |= known[name].to_arrays(summary)
  return arrays


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Statistics:
  """Makes the statistics whose arrays are there; there may be others."""
  return {
    name: statistic.from_arrays(arrays)
    for name, statistic in registry.statistics().items()
    if set(statistic.arrays) <= arrays.keys()
  }
