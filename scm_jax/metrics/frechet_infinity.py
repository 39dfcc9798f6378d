"""Fréchet distance extrapolated to infinitely many generated samples.

The distance of N samples is too large by a term of order 1/N, which is another
for each generator (Chong and Forsyth 2020, arXiv:1911.07023). A line in 1/N,
fitted to the distances of subsets of several sizes, meets 1/N = 0 at a value
that depends on N by its noise alone. The reference stays whole, and what its
own finite number of samples adds to the distance stays in it.

The kept features are cut at random into ten blocks of equal size, and the
subsets are all runs of consecutive blocks on a ring: ten of each size from a
tenth up, and the whole. The runs that avoid a block are what is left without
it, so the same distances give the jackknife's standard error.
"""

import itertools

import numpy as np

from scm_jax.metrics.frechet import MOMENTS, Moments, feature_stats, merge_stats
from scm_jax.metrics.metric import KEPT_FEATURES, Column, Metric, Options

BLOCKS = 10
_LEAST_SIZES = 5  # of subsets, for a line and its error
_LEAST_PER_FEATURE = 2  # samples; the bias of fewer is not linear in 1/N


def extrapolate(
  features: np.ndarray, reference: Moments, options: Options
) -> tuple[float, ...]:
  """Returns the distance of infinitely many samples, and its standard error.

  Features are [n, d], the reference the moments of real ones. The distance may
  be slightly negative. Subsets have at least two samples for each feature; a
  set of too few for subsets of five sizes has no distance: ().
  """
  count, dim = features.shape
  least = -(-_LEAST_PER_FEATURE * dim * BLOCKS // count)  # blocks in a subset
  if count < BLOCKS or BLOCKS - least + 1 < _LEAST_SIZES:
    return ()
  order = np.random.default_rng(options.seed).permutation(count)
  blocks = [
    feature_stats(features[part]) for part in np.array_split(order, BLOCKS)
  ]
  members, found = [], []  # of each run: its blocks; its size and distance
  for start in range(BLOCKS):
    run = blocks[start:] + blocks[:start]
    for size, subset in enumerate(itertools.accumulate(run, merge_stats), 1):
      if least <= size < BLOCKS or (size == BLOCKS and start == 0):
        members.append((np.arange(start, start + size) % BLOCKS).tolist())
        found.append((subset.n, _distance(subset, reference)))
  counts, distances = np.asarray(found).T
  sizes = np.asarray([len(run) for run in members])

  def intercept(used: np.ndarray) -> float:
    # A distance's deviation goes with 1/n; all runs of a size are one point.
    weights = counts[used] / np.sqrt(np.bincount(sizes[used])[sizes[used]])
    return np.polyfit(1 / counts[used], distances[used], 1, w=weights)[1]

  without = [
    intercept(np.asarray([block not in run for run in members]))
    for block in range(BLOCKS)
  ]
  error = np.sqrt((BLOCKS - 1) * np.var(without))
  return float(intercept(sizes > 0)), float(error)


def _distance(sample: Moments, reference: Moments) -> float:
  """Returns the distance by eigenvalues alone, several times as quickly.

  Rounding leaves about 1e-7 of the features' variance, far below the error.
  """
  cross = reference.factor.T @ sample.covariance @ reference.factor
  roots = np.sqrt(np.clip(np.linalg.eigvalsh(cross), 0.0, None))
  spread = np.trace(sample.covariance) + np.sum(reference.factor**2)
  return np.sum((sample.mean - reference.mean) ** 2) + spread - 2 * roots.sum()


METRIC = Metric(
  statistic=KEPT_FEATURES,
  against=MOMENTS,
  compute=extrapolate,
  keys=("fd_infinity", "fd_infinity_se"),
  columns=(Column("fd_infinity", "FD∞"),),
)
