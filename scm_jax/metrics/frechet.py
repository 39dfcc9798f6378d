"""Fréchet distance between feature sets, from statistics that merge exactly.

The distance of Heusel et al. (2017, arXiv:1706.08500, eq. 6): both feature
sets are summarised by a Gaussian, `N(m1, S1)` and `N(m2, S2)`, and

    FD = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^{1/2} S2 S1^{1/2})^{1/2}).

The estimate is biased upwards by a term of order 1/n (Chong and Forsyth 2020,
arXiv:1911.07023), so distances compare only at equal sample sizes.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics.metric import Column, Metric, Statistic

ENOUGH = 10  # samples for each feature, below which a report warns


@dataclasses.dataclass(frozen=True)
class Moments:
  """First and second moments of a feature set.

  `m2` [d, d] is the sum over samples of the outer product of the deviation from
  the mean with itself, or the covariance itself where `n` is None.
  """

  n: int | None  # number of samples; None if a file does not say
  mean: np.ndarray  # [d]
  m2: np.ndarray

  @property
  def covariance(self) -> np.ndarray:
    """Returns the [d, d] unbiased sample covariance of two samples or more."""
    if self.n is None:
      return self.m2
    if self.n < 2:
      raise UserError(
        f"a covariance needs at least 2 samples, and there is {self.n}"
      )
    return self.m2 / (self.n - 1)

  @functools.cached_property
  def factor(self) -> np.ndarray:
    """Returns [d, d] `A` with `A A^T` the covariance."""
    values, vectors = np.linalg.eigh(self.covariance)
    # Rounding leaves eigenvalues of about -1e-16 where the truth is zero.
    return vectors * np.sqrt(np.clip(values, 0.0, None))


def feature_stats(features: np.ndarray) -> Moments:
  """Computes the moments of `features` [n, d].

  Raises:
    UserError: a feature is not finite.
  """
  features = np.asarray(features, np.float64)
  bad = int((~np.isfinite(features)).any(axis=1).sum())
  if bad:
    raise UserError(
      f"{bad} of {len(features)} samples have non-finite features"
    )
  mean = features.mean(axis=0)
  deviation = features - mean
  return Moments(len(features), mean, deviation.T @ deviation)


def merge_stats(a: Moments, b: Moments) -> Moments:
  """Returns the moments of the union of two sets, whose sizes are known.

  This is the pairwise update of Chan, Golub and LeVeque (1979), without the
  cancellation of summed squares.
  """
  assert a.n and b.n
  n = a.n + b.n
  delta = b.mean - a.mean
  mean = a.mean + delta * (b.n / n)
  m2 = a.m2 + b.m2 + np.outer(delta, delta) * (a.n * b.n / n)
  return Moments(n, mean, m2)


def frechet_distance(
  a: Moments, b: Moments, *, allow_few: bool = False
) -> float:
  """Returns the Fréchet distance of two sets' Gaussians, in squared features.

  With factors `S1 = A A^T` and `S2 = B B^T` from two symmetric
  eigendecompositions, the trace of the matrix square root is the sum of the
  singular values of `A^T B`. Nothing is multiplied into `S1 S2`, whose small
  eigenvalues would drown in rounding, so singular covariances are no trouble.

  Raises:
    UserError: a set has no more samples than features, and so directions
      without any data, and `allow_few` does not say that this is accepted.
  """
  if not allow_few:
    check_enough("", (a.n, b.n), len(a.mean))
  cross = np.linalg.svd(a.factor.T @ b.factor, compute_uv=False).sum()
  spread = np.sum(a.factor**2) + np.sum(b.factor**2) - 2.0 * cross
  shift = np.sum((a.mean - b.mean) ** 2)
  return float(max(shift + spread, 0.0))


def check_enough(what: str, counts: Sequence[int | None], dim: int) -> None:
  """Raises UserError, about `what`, unless all counts are above `dim`.

  None stands for a count that is not known, as of a file of moments.
  """
  few = min((n for n in counts if n is not None), default=dim + 1)
  if few <= dim:
    raise UserError(
      f"{what}{': ' * bool(what)}{few} samples are too few for a Fréchet "
      f"distance over {dim} features: use at least {dim + 1}, better 10 times "
      "as many"
    )


MOMENTS = Statistic(
  name="moments",
  output="features",
  arrays=("n", "mean", "m2"),
  summarize=lambda values, batch: feature_stats(values),
  merge=functools.partial(functools.reduce, merge_stats),
  make=Moments,
)


def _warn_of_few(generated: Moments, reference: Moments) -> str:
  """Returns a warning if the distance depends much on the sample sizes."""
  counts = [m.n for m in (generated, reference) if m.n is not None]
  few, dim = min(counts, default=0), len(generated.mean)
  if not counts or few >= ENOUGH * dim:
    return ""
  state = "singular" if few <= dim else "noisy"
  return (
    f"{few} samples for {dim} features, so the covariance is {state} and the "
    "Fréchet distance biased upwards; compare it only at this sample size"
  )


METRIC = Metric(
  statistic=MOMENTS,
  compute=lambda generated, reference, options: (
    frechet_distance(generated, reference, allow_few=options.allow_few),
  ),
  keys=("fd",),
  columns=(Column("fd", "FD"),),
  warn=_warn_of_few,
)
