"""Statistics of one feature space, batch by batch, in float64.

Features come from the devices in float32, B x d numbers a batch. Their centred
sums are taken here, on the host, in float64, and merged by Chan's formula. That
costs 2 B d^2 operations, thousands of times fewer than the network that made
the features, while float32 sums on the device would be off by more than the
distances between good models, and TPUs have no float64. Batches are added in
the order of their samples, whatever device made them.

What needs single features (kernel distances, neighbours) gets those of a random
choice of samples, fixed before any is seen.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics import frechet
from scm_jax.metrics.inception_score import ClassSums

KEPT = 10_000  # samples whose features are kept, by default

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Collected:
  """What scores need to know of a set of images, in one feature space.

  Attributes:
    moments: mean and covariance of the features of all samples.
    kept: [k, d] float32 features of some samples, or None.
    classes: sums of class probabilities, where the extractor classifies.
  """

  moments: frechet.Moments
  kept: np.ndarray | None = None
  classes: ClassSums | None = None


def chosen(total: int, keep: int, seed: int = 0) -> np.ndarray:
  """[total] bool: the samples whose features are kept, `keep` at most.

  Drawn at random, since datasets are sorted and labels periodic.
  """
  mask = np.zeros(total, bool)
  if keep >= total:
    mask[:] = True
  else:
    rng = np.random.default_rng([seed, total])
    mask[rng.choice(total, keep, replace=False)] = True
  return mask


class Accumulator:
  """Adds up batches of one feature space.

  Attributes:
    total: samples of all parts.
    mine: those that are added here, one after the other.
    count: samples so far.
  """

  def __init__(
    self, dim: int, total: int, keep: int = KEPT, mine: range | None = None
  ):
    self.total, self.count = total, 0
    self.mine = range(total) if mine is None else mine
    self._keep = chosen(total, keep)
    self._stats = frechet.empty_stats(dim)
    self._parts: list[np.ndarray] = []
    self._saved = 0
    self._classes: ClassSums | None = None

  def add(self, features: np.ndarray, logits: np.ndarray | None = None) -> None:
    """Adds the features [n, d], and logits [n, K] if any, of the next samples.

    Raises:
      UserError: a feature is not finite.
    """
    first = self.mine.start + self.count
    end = first + len(features)
    if features.shape[1] != self._stats.dim:
      raise ValueError(f"{features.shape[1]} features, not {self._stats.dim}")
    part = frechet.feature_stats(features)
    self._stats = frechet.merge_stats(self._stats, part)
    self._parts.append(np.asarray(features[self._keep[first:end]], np.float32))
    if logits is not None:
      if self._classes is None:
        self._classes = ClassSums.empty(self.total, logits.shape[1])
      self._classes.add(first, logits)
    self.count += len(features)

  def result(self) -> Collected:
    """The statistics of its samples.

    Raises:
      UserError: there are fewer than was said.
    """
    if self.count != len(self.mine):
      raise UserError(
        f"{self.count} samples where {len(self.mine)} were to come"
      )
    return Collected(self._stats, self._joined(self._parts), self._classes)

  def take_new(self) -> np.ndarray:
    """[n, d] features kept since this was last asked."""
    new, self._saved = self._parts[self._saved :], len(self._parts)
    return self._joined(new)

  def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
    empty = np.zeros((0, self._stats.dim), np.float32)
    return np.concatenate([empty, *parts])

  def state(self) -> Arrays:
    """Everything but the kept features."""
    state = moments_state(self._stats)
    if self._classes is not None:
      state |= classes_state(self._classes)
    return state

  def restore(self, state: Mapping[str, Any], kept: np.ndarray) -> None:
    """Goes on from a `state` and the features that were kept until it.

    Raises:
      ValueError: they are of something else.
    """
    stats = moments_of(state)
    seen = self.mine[: stats.n]
    expected = int(self._keep[seen.start : seen.stop].sum())
    if stats.dim != self._stats.dim or kept.shape != (expected, stats.dim):
      raise ValueError("the features are of another size")
    self._stats, self.count = stats, stats.n
    self._parts, self._saved = [kept], 1
    self._classes = classes_of(state, self.total)


def merge(parts: Iterable[Collected]) -> Collected:
  """Statistics of all samples, from those of parts that follow each other.

  Where a set is cut changes its moments and class sums by rounding, and its
  kept features not at all. The parts are taken one at a time.
  """
  moments: Any = None
  kept: list[np.ndarray] = []
  classes: ClassSums | None = None
  for part in parts:
    mine: Any = part.moments
    moments = mine if moments is None else frechet.merge_stats(moments, mine)
    if part.kept is not None:
      kept.append(part.kept)
    classes = _added(classes, part.classes)
  return Collected(moments, np.concatenate(kept) if kept else None, classes)


def _added(a: ClassSums | None, b: ClassSums | None) -> ClassSums | None:
  """Sums of both; a part without samples has none."""
  if a is None or b is None:
    return b if a is None else a
  return ClassSums(
    a.total,
    a.counts + b.counts,
    a.probabilities + b.probabilities,
    a.negentropies + b.negentropies,
  )


def moments_state(stats: frechet.FeatureStats) -> Arrays:
  """Plain arrays, from which `moments_of` makes it again."""
  return {"n": np.asarray(stats.n), "mean": stats.mean, "m2": stats.m2}


def moments_of(state: Mapping[str, Any]) -> frechet.FeatureStats:
  """The inverse of `moments_state`."""
  return frechet.FeatureStats(int(state["n"]), state["mean"], state["m2"])


def classes_state(sums: ClassSums) -> Arrays:
  """Plain arrays, from which `classes_of` makes it again."""
  return {
    "counts": sums.counts,
    "probabilities": sums.probabilities,
    "negentropies": sums.negentropies,
  }


def classes_of(state: Mapping[str, Any], total: int) -> ClassSums | None:
  """The inverse of `classes_state`; None where there are no sums."""
  names = ("counts", "probabilities", "negentropies")
  if names[0] not in state:
    return None
  return ClassSums(total, *(np.array(state[name]) for name in names))
