"""Kernel distance (KID): an unbiased squared MMD between feature sets.

Bińkowski et al. (2018, arXiv:1801.01401): with the cubic kernel
`k(x, y) = (x.y / d + 1)^3`, the unbiased estimate of the squared maximum mean
discrepancy is averaged over random subsets. Its expectation does not depend on
the sample size, and it may be slightly negative.
"""

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics.metric import KEPT_FEATURES, Column, Metric, Options


def unbiased_mmd2(x: np.ndarray, y: np.ndarray) -> float:
  """Computes the unbiased squared MMD of `x` [n, d] and `y` [m, d].

  Gretton et al. (2012), eq. 3: pairs of a sample with itself are left out.
  """
  n, m = len(x), len(y)
  if min(n, m) < 2:
    raise UserError(f"a kernel distance needs 2 samples a side, not {n}, {m}")
  within_x = _kernel_sum(x, x) - _self_kernel_sum(x)
  within_y = _kernel_sum(y, y) - _self_kernel_sum(y)
  return float(
    within_x / (n * (n - 1))
    + within_y / (m * (m - 1))
    - 2.0 * _kernel_sum(x, y) / (n * m)
  )


def kernel_distance(
  x: np.ndarray, y: np.ndarray, options: Options
) -> tuple[float, float]:
  """Computes the KID between feature sets `x` [n, d] and `y` [m, d].

  Subsets of both sets are drawn without replacement. Returns the mean of the
  squared MMD over them, and its standard deviation. Sets of one size, no larger
  than a subset, are used whole, and the deviation is then 0.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  size = min(options.subset_size, len(x), len(y))
  if size == len(x) == len(y):
    return unbiased_mmd2(x, y), 0.0
  rng = np.random.default_rng(options.seed)
  values = [
    unbiased_mmd2(*(z[rng.choice(len(z), size, replace=False)] for z in (x, y)))
    for _ in range(options.subsets)
  ]
  return float(np.mean(values)), float(np.std(values))


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
  """Returns the sum of k over all pairs of a row of x and a row of y."""
  kernel = x @ (y.T / x.shape[1])
  kernel += 1.0
  # A sum of cubes as one dot product: no third pass over the matrix.
  return float(np.vdot(kernel * kernel, kernel))


def _self_kernel_sum(x: np.ndarray) -> float:
  """Returns the sum of k over the pairs of each sample with itself."""
  return float(np.sum((np.sum(x * x, axis=1) / x.shape[1] + 1.0) ** 3))


METRIC = Metric(
  statistic=KEPT_FEATURES,
  compute=kernel_distance,
  keys=("kid", "kid_sd"),
  columns=(Column("kid", "KID ×1000", scale=1000.0),),
)
