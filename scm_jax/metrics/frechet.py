"""Fréchet distance between feature sets, from statistics that merge exactly.

The distance of Heusel et al. (2017, arXiv:1706.08500, eq. 6): both feature
sets are summarised by a Gaussian, `N(m1, S1)` and `N(m2, S2)`, and

    FD = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^{1/2} S2 S1^{1/2})^{1/2}).

Everything is float64 on the host. The estimate is biased upwards by a term of
order 1/n (Chong and Forsyth 2020, arXiv:1911.07023), so distances compare only
at equal sample sizes, and every report states the sizes it used.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics.metric import Column, Metric, Options
from scm_jax.metrics.statistic import Arrays, Batch, Statistic

ENOUGH = 10  # samples for each feature, below which a report warns


class _Factored:
  """Caches a factor of the covariance: a reference is compared many times."""

  @functools.cached_property
  def factor(self: Any) -> np.ndarray:
    """Returns [d, d] `A` with `A A^T` the covariance."""
    values, vectors = np.linalg.eigh(self.covariance)
    # Rounding leaves eigenvalues of about -1e-16 where the truth is zero.
    return vectors * np.sqrt(np.clip(values, 0.0, None))


@dataclasses.dataclass(frozen=True)
class Gaussian(_Factored):
  """Mean and covariance from a file, which seldom tells the sample size."""

  mean: np.ndarray
  covariance: np.ndarray
  n: int | None = None


@dataclasses.dataclass(frozen=True)
class FeatureStats(_Factored):
  """First and second moments of a feature set.

  Attributes:
    n: number of samples.
    mean: [d] mean of the features.
    m2: [d, d] sum over samples of the outer product of the deviation from the
      mean with itself; the covariance is `m2 / (n - 1)`.
  """

  n: int
  mean: np.ndarray
  m2: np.ndarray

  @property
  def dim(self) -> int:
    """Returns the number of features."""
    return self.mean.shape[0]

  @property
  def covariance(self) -> np.ndarray:
    """Returns the [d, d] unbiased sample covariance of two samples or more."""
    if self.n < 2:
      raise UserError(
        f"a covariance needs at least 2 samples, and there is {self.n}"
      )
    return self.m2 / (self.n - 1)


Moments = Gaussian | FeatureStats


def feature_stats(features: np.ndarray) -> FeatureStats:
  """Computes the moments of `features` [n, d].

  Raises:
    UserError: a feature is not finite.
  """
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
  """Returns the moments of no samples, the neutral element of `merge_stats`."""
  return FeatureStats(0, np.zeros(dim), np.zeros((dim, dim)))


def merge_stats(a: FeatureStats, b: FeatureStats) -> FeatureStats:
  """Returns the moments of the union of two disjoint feature sets.

  This is the pairwise update of Chan, Golub and LeVeque (1979): exact up to
  rounding, in any order and grouping, without the cancellation of summed
  squares. It lets features be summarised batch by batch and host by host.
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
  a: Moments, b: Moments, *, allow_few: bool = False
) -> float:
  """Computes the Fréchet distance between two sets' Gaussians.

  With factors `S1 = A A^T` and `S2 = B B^T` from two symmetric
  eigendecompositions, the trace of the matrix square root is the sum of the
  singular values of `A^T B`. Nothing is inverted or multiplied into
  `S1 S2`, whose small eigenvalues would drown in rounding, so singular
  covariances (a pixel that is always black) are no trouble, and no complex
  numbers appear.

  Args:
    a: moments of one set (the distance is symmetric).
    b: moments of the other set.
    allow_few: compute the distance even if a set has no more samples than
      features. Its covariance then has directions without any data, and the
      number says more about the sample size than about the images.

  Returns:
    The distance, at least 0, in squared feature units.

  Raises:
    UserError: too few samples for the number of features.
  """
  dim = a.mean.shape[0]
  if dim != b.mean.shape[0]:
    raise ValueError(f"cannot compare {dim} features with {b.mean.shape[0]}")
  few = min((n for n in (a.n, b.n) if n is not None), default=dim + 1)
  if few <= dim and not allow_few:
    raise UserError(
      f"{few} samples are too few for a Fréchet distance over {dim} "
      f"features: use at least {dim + 1}, better 10 times as many"
    )
  cross = np.linalg.svd(a.factor.T @ b.factor, compute_uv=False).sum()
  spread = np.sum(a.factor**2) + np.sum(b.factor**2) - 2.0 * cross
  shift = np.sum((a.mean - b.mean) ** 2)
  return float(max(shift + spread, 0.0))


class FeatureMoments(Statistic):
  """Mean and covariance of an extractor's output [n, d], in float64."""

  def __init__(self, name: str, output: str):
    """Describes moments whose stored arrays have names of their own."""
    self.name, self.output = name, output
    # Files of the features' moments have always had these names.
    prefix = "" if output == "features" else f"{output}_"
    self.arrays = tuple(prefix + field for field in ("n", "mean", "m2"))

  def summarize(self, values: np.ndarray, batch: Batch) -> FeatureStats:
    return feature_stats(values)

  def merge(self, parts: Sequence[FeatureStats]) -> FeatureStats:
    return functools.reduce(merge_stats, parts)

  def to_arrays(self, summary: FeatureStats) -> Arrays:
    values = np.asarray(summary.n), summary.mean, summary.m2
    return dict(zip(self.arrays, values, strict=True))

  def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> FeatureStats:
    n, mean, m2 = (arrays[name] for name in self.arrays)
    return FeatureStats(int(n), mean, m2)


MOMENTS = FeatureMoments("moments", "features")


def _compute(
  generated: Moments, reference: Moments, options: Options
) -> dict[str, float]:
  few = options.allow_few
  return {"fd": frechet_distance(generated, reference, allow_few=few)}


def _warn_of_few(generated: Moments, reference: Moments) -> str:
  """Returns a warning if the distance depends much on the sample sizes."""
  counts = [m.n for m in (generated, reference) if m.n is not None]
  few, dim = min(counts, default=0), generated.mean.shape[0]
  if not counts or few >= ENOUGH * dim:
    return ""
  state = "singular" if few <= dim else "noisy"
  return (
    f"{few} samples for {dim} features, so the covariance is {state} and the "
    "Fréchet distance biased upwards; compare it only at this sample size"
  )


METRIC = Metric(
  name="frechet",
  statistic=MOMENTS,
  compute=_compute,
  keys=("fd",),
  columns=(Column("fd", "FD"),),
  warn=_warn_of_few,
)
