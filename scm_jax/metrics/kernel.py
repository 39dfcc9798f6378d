"""Kernel distance (KID): an unbiased squared MMD between feature sets.

Bińkowski et al. (2018, arXiv:1801.01401): with the cubic kernel
`k(x, y) = (x.y / d + 1)^3`, the unbiased estimate of the squared maximum mean
discrepancy is averaged over random subsets. Unlike the Fréchet distance, its
expectation does not depend on the sample size, so it may be slightly negative
when both sets come from one distribution.
"""

from typing import NamedTuple

import numpy as np

from scm_jax.errors import UserError


class KernelDistance(NamedTuple):
  """Mean over subsets of the squared MMD, and its standard deviation."""

  mean: float
  sd: float


def unbiased_mmd2(x: np.ndarray, y: np.ndarray) -> float:
  """Unbiased squared MMD of `x` [n, d] and `y` [m, d], cubic kernel.

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
  x: np.ndarray,
  y: np.ndarray,
  *,
  subset_size: int = 1000,
  subsets: int = 100,
  seed: int = 0,
) -> KernelDistance:
  """KID between feature sets `x` [n, d] and `y` [m, d].

  Args:
    x: one feature set.
    y: the other; the distance is symmetric up to the choice of subsets.
    subset_size: samples per subset and side. Smaller sets than this are used
      whole, and `sd` is then 0 because every subset is the same one.
    subsets: number of subsets drawn, each without replacement.
    seed: of the subsets.

  Returns:
    Mean and standard deviation over the subsets.

  Raises:
    UserError: fewer than two samples on a side.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  size = min(subset_size, len(x), len(y))
  if size == len(x) == len(y):
    return KernelDistance(unbiased_mmd2(x, y), 0.0)
  rng = np.random.default_rng(seed)
  values = [
    unbiased_mmd2(
      x[rng.choice(len(x), size, replace=False)],
      y[rng.choice(len(y), size, replace=False)],
    )
    for _ in range(subsets)
  ]
  return KernelDistance(float(np.mean(values)), float(np.std(values)))


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
  """Sum of k over all pairs."""
  kernel = x @ (y.T / x.shape[1])
  kernel += 1.0
  # A sum of cubes as one dot product: no third pass over the matrix.
  return float(np.vdot(kernel * kernel, kernel))


def _self_kernel_sum(x: np.ndarray) -> float:
  """Sum of k over the pairs of each sample with itself."""
  return float(np.sum((np.sum(x * x, axis=1) / x.shape[1] + 1.0) ** 3))
