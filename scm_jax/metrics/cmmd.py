"""CMMD: the squared distance of CLIP embeddings by a Gaussian kernel.

Jayasumana et al. (2024, arXiv:2401.09603): with `k(x, y) = exp(-|x - y|^2 / 2
sigma^2)` and `sigma = 10`, the squared maximum mean discrepancy of embeddings
of unit length, times 1000. As in the authors' code, the estimate is the one of
least variance, whose means include the pairs of a sample with itself (Gretton
et al. 2012, eq. 5). It assumes no normal distribution, as a Fréchet distance
does, and needs fewer samples.
"""

import dataclasses

import numpy as np

from scm_jax.metrics import manifold
from scm_jax.metrics.metric import KEPT_FEATURES, Column, Metric

SIGMA, SCALE = 10.0, 1000.0


def cmmd(x: np.ndarray, y: np.ndarray) -> float:
  """Computes the CMMD of embeddings `x` [n, d] and `y` [m, d]."""
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  within = _mean_kernel(x, x) + _mean_kernel(y, y)
  return SCALE * (within - 2.0 * _mean_kernel(x, y))


def _mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
  """Returns the mean of the kernel over all pairs."""
  total = sum(
    float(np.exp(distances / (-2.0 * SIGMA**2)).sum())
    for distances in manifold.squared_distances(x, y)
  )
  return total / (len(x) * len(y))


# Embeddings [k, d] of the samples that are kept one by one.
EMBEDDINGS = dataclasses.replace(
  KEPT_FEATURES,
  name="embeddings",
  output="embeddings",
  arrays=("kept_embeddings",),
)
METRIC = Metric(
  statistic=EMBEDDINGS,
  compute=lambda generated, reference, options: (cmmd(generated, reference),),
  keys=("cmmd",),
  columns=(Column("cmmd", "CMMD"),),
)
