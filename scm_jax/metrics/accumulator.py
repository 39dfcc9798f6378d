"""Statistics of a set of images, gathered batch by batch in float64.

They are gathered on the host: float32 sums on the device would be off by more
than the distances between good models, and TPUs have no float64.
"""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics import registry
from scm_jax.metrics.metric import Arrays, Batch, ImageSet, Statistics

KEPT = 10_000  # samples whose features are kept, by default


def choose_kept(total: int, keep: int) -> np.ndarray:
  """Returns [total] bool: at most `keep` samples, whose features are kept.

  They are drawn at random, since datasets are sorted and labels periodic.
  """
  if keep >= total:
    return np.ones(total, bool)
  mask = np.zeros(total, bool)
  rng = np.random.default_rng([0, total])
  mask[rng.choice(total, keep, replace=False)] = True
  return mask


class Accumulator:
  """Accumulates the statistics of consecutive samples, `count` so far."""

  def __init__(
    self, total: int, keep: int = KEPT, samples: range | None = None
  ):
    """Begins with none of the `samples`, by default all `total` of a set.

    The features of `keep` samples of the whole set are kept one by one.
    """
    self.count = 0
    self._total = total
    self._samples = range(total) if samples is None else samples
    self._kept = choose_kept(total, keep)
    # Summaries of parts that follow each other, by extractor and statistic.
    self._parts = collections.defaultdict[str, dict[str, list[Any]]](dict)

  def add(self, outputs: Mapping[str, Mapping[str, Any]], count: int) -> None:
    """Adds the first `count` of outputs [n, ...], by extractor and output.

    Raises:
      UserError: a feature is not finite.
    """
    first = self._samples.start + self.count
    batch = Batch(first, self._total, self._kept[first : first + count])
    for extractor, mine in outputs.items():
      summaries = self._parts[extractor]
      for name, statistic in registry.statistics(mine).items():
        values = np.asarray(mine[statistic.output])[:count]
        parts = summaries.setdefault(name, [])
        parts.append(statistic.summarize(values, batch))
        if not statistic.merge_last:
          parts[:] = [statistic.merge(parts)]
    self.count += count

  def result(self) -> ImageSet:
    """Returns the statistics of all its samples, if there are any.

    Raises:
      UserError: some have not been added.
    """
    if self.count != len(self._samples):
      raise UserError(
        f"only {self.count} of {len(self._samples)} samples were computed"
      )
    return self._merged()

  def to_arrays(self) -> dict[str, Arrays]:
    """Returns the statistics so far as arrays, by extractor."""
    count = {"count": np.asarray(self.count)}
    merged = self._merged().items()
    return {name: to_arrays(found) | count for name, found in merged}

  def restore(self, arrays: Mapping[str, Arrays]) -> None:
    """Continues from saved arrays; raises ValueError if these are too many."""
    self.count = int(next(iter(arrays.values()))["count"])
    if self.count > len(self._samples):
      raise ValueError(
        f"{self.count} samples were saved, of {len(self._samples)} expected"
      )
    for extractor, saved in arrays.items():
      found = from_arrays(saved).items()
      self._parts[extractor] = {name: [summary] for name, summary in found}

  def _merged(self) -> ImageSet:
    known = registry.statistics()
    return {
      extractor: {name: known[name].merge(parts[name]) for name in parts}
      for extractor, parts in self._parts.items()
    }


def merge(first: Statistics, second: Statistics) -> Statistics:
  """Merges the statistics of two parts of a set, which follow each other.

  A part without samples has no statistics.
  """
  if not first or not second:
    return first or second
  known = registry.statistics()
  return {
    name: known[name].merge([first[name], second[name]]) for name in first
  }


def summarize_features(features: np.ndarray) -> Statistics:
  """Returns the statistics of features [n, d], all of which are kept."""
  accumulator = Accumulator(len(features), len(features))
  accumulator.add({"": {"features": features}}, len(features))
  return accumulator.result()[""]


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
    if set(statistic.stored) <= arrays.keys()
  }
