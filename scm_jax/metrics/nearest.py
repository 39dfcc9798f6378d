"""Distances to the nearest real images: whether a generator copies them.

Samples of a generator that repeats its training images lie closer to them than
other real images do. The ratio compares the median distance from a sample to
the nearest real image with that from a real image to the nearest other one: it
is 0 for copies, and about 1 for fresh images of the same distribution.
Authenticity (Alaa et al. 2022, arXiv:2102.08921) is the share of samples that
are farther from their nearest real image than the nearest other real image is.
Both need the whole training data among the real images.
"""

import numpy as np

from scm_jax.metrics import manifold
from scm_jax.metrics.metric import KEPT_FEATURES, Column, Metric

_DUPLICATE = 1e-4  # of the deviation: what rounding may leave between equals


def nearest_real(generated: np.ndarray, real: np.ndarray) -> tuple[float, ...]:
  """Returns the ratio of median distances, and the authenticity.

  Features of generated samples are [n, d], of real images [m, d]. Returns () if
  most real images are duplicates, to which no distance compares.

  Raises:
    UserError: a set has no more than one sample.
  """
  generated, real = manifold.centred(generated, real, 1)
  between = manifold.squared_radii(real, 1)
  found = [
    (chunk.min(axis=1), chunk.argmin(axis=1))
    for chunk in manifold.squared_distances(generated, real)
  ]
  distances, nearest = map(np.concatenate, zip(*found, strict=True))
  typical = np.median(np.sqrt(between))
  spread = np.sqrt(np.mean(np.sum(real**2, axis=1)))  # they are centred
  if typical <= _DUPLICATE * spread:
    return ()
  ratio = np.median(np.sqrt(distances)) / typical
  return float(ratio), float(np.mean(distances > between[nearest]))


METRIC = Metric(
  statistic=KEPT_FEATURES,
  compute=lambda generated, reference, options: nearest_real(
    generated, reference
  ),
  keys=("nearest_ratio", "authenticity"),
  columns=(
    Column("nearest_ratio", "nearest", higher_is_better=True),
    Column("authenticity", "authentic", higher_is_better=True),
  ),
)
