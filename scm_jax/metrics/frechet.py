"""Fréchet distance between feature sets, from statistics that merge exactly.

The distance of Heusel et al. (2017, arXiv:1706.08500, eq. 6): both feature
sets are summarised by a Gaussian, `N(m1, S1)` and `N(m2, S2)`, and

    FD = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^{1/2} S2 S1^{1/2})^{1/2}).

Everything is float64 on the host. The estimate is biased upwards by a term of
order 1/n (Chong and Forsyth 2020, arXiv:1911.07023), so distances compare only
at equal sample sizes, and every report states the sizes it used.
"""

import dataclasses

import numpy as np

from scm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class FeatureStats:
  """First and second moments of a feature set.

  Attributes:
    n: number of samples.
    mean: [d] their mean.
    m2: [d, d] sum over samples of the outer product of the deviation from the
      mean with itself; the covariance is `m2 / (n - 1)`.
  """

  n: int
  mean: np.ndarray
  m2: np.ndarray

  @property
  def dim(self) -> int:
    """Number of features."""
    return self.mean.shape[0]

  @property
  def covariance(self) -> np.ndarray:
    """[d, d] unbiased sample covariance; needs two samples or more."""
    if self.n < 2:
      raise UserError(
        f"a covariance needs at least 2 samples, and there is {self.n}"
      )
    return self.m2 / (self.n - 1)


def feature_stats(features: np.ndarray) -> FeatureStats:
  """Summarises `features` [n, d]; raises UserError if any is not finite."""
  features = np.asarray(features, np.float64)
  if features.ndim != 2:
    raise ValueError(f"features must be [n, d], not {features.shape}")
  if not np.isfinite(features).all():
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    raise UserError(
      f"{bad} of {len(features)} samples have non-finite features"
    )
  if not len(features):
    return empty_stats(features.shape[1])
  mean = features.mean(axis=0)
  deviation = features - mean
  return FeatureStats(len(features), mean, deviation.T @ deviation)


def empty_stats(dim: int) -> FeatureStats:
  """Statistics of no samples: the neutral element of `merge_stats`."""
  return FeatureStats(0, np.zeros(dim), np.zeros((dim, dim)))


def merge_stats(a: FeatureStats, b: FeatureStats) -> FeatureStats:
  """Statistics of the union of two disjoint feature sets.

  The pairwise update of Chan, Golub and LeVeque (1979): exact up to rounding,
  in any order and grouping, without the cancellation of summed squares. It
  lets features be summarised batch by batch and host by host.
  """
  if a.dim != b.dim:
    raise ValueError(f"cannot merge {a.dim} features with {b.dim}")
  n = a.n + b.n
  if n == 0:
    return a
  delta = b.mean - a.mean
  mean = a.mean + delta * (b.n / n)
  m2 = a.m2 + b.m2 + np.outer(delta, delta) * (a.n * b.n / n)
  return FeatureStats(n, mean, m2)


def frechet_distance(
  a: FeatureStats, b: FeatureStats, *, allow_few: bool = False
) -> float:
  """Fréchet distance between the Gaussians fitted to two feature sets.

  The trace of the matrix square root is the nuclear norm of
  `S1^{1/2} S2^{1/2}`: two symmetric eigendecompositions and one set of
  singular values. Nothing is inverted, so singular covariances (a pixel that
  is always black) are no trouble, and no complex numbers appear.

  Args:
    a: statistics of one set (the distance is symmetric).
    b: statistics of the other.
    allow_few: compute the distance even if a set has no more samples than
      features. Its covariance then has directions without any data, and the
      number says more about the sample size than about the images.

  Returns:
    The distance, at least 0, in squared feature units.

  Raises:
    UserError: too few samples for the number of features.
  """
  if a.dim != b.dim:
    raise ValueError(f"cannot compare {a.dim} features with {b.dim}")
  few = min(a.n, b.n)
  if few <= a.dim and not allow_few:
    raise UserError(
      f"{few} samples are too few for a Fréchet distance over {a.dim} "
      f"features: use at least {a.dim + 1}, better 10 times as many"
    )
  root_a = _square_root(a.covariance)
  root_b = _square_root(b.covariance)
  cross = np.linalg.svd(root_a @ root_b, compute_uv=False).sum()
  spread = np.sum(root_a**2) + np.sum(root_b**2) - 2.0 * cross
  shift = np.sum((a.mean - b.mean) ** 2)
  return float(max(shift + spread, 0.0))


def _square_root(matrix: np.ndarray) -> np.ndarray:
  """[d, d] symmetric square root of a positive semi-definite matrix."""
  values, vectors = np.linalg.eigh(matrix)
  # Rounding leaves eigenvalues of about -1e-16 where the truth is zero.
  return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
