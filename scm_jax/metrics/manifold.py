"""Precision and recall, density and coverage of generated samples.

Kynkäänniemi et al. (2019, arXiv:1904.06991): each set's manifold is the union
of the balls around its samples that reach their k-th nearest neighbour in the
same set. Precision is the share of generated samples inside the real manifold,
recall the share of real samples inside the generated one. Naeem et al. (2020,
arXiv:2002.09797) count the real balls that a generated sample lies in, which a
single outlier's ball moves less: density is their mean number over k, coverage
the share of real balls with a generated sample inside. All four depend on the
sample sizes; compare them only at equal ones.
"""

from collections.abc import Iterator

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics.metric import KEPT_FEATURES, Column, Metric

_CHUNK_ENTRIES = 1 << 24  # distances held at a time: 128 MiB in float64
_KEYS = ("precision", "recall", "density", "coverage")


def precision_recall(
  generated: np.ndarray, real: np.ndarray, *, k: int = 3
) -> tuple[float, float]:
  """Returns precision and recall of `generated` [n, d] against `real` [m, d].

  Both are in [0, 1]. Balls reach their centre's `k`-th neighbour.

  Raises:
    UserError: a set has no more than `k` samples.
  """
  generated, real = centred(generated, real, k)
  return _share_inside(generated, real, k), _share_inside(real, generated, k)


def density_coverage(
  generated: np.ndarray, real: np.ndarray, *, k: int = 5
) -> tuple[float, float]:
  """Returns density and coverage of `generated` [n, d] against `real` [m, d].

  Density is at least 0, coverage in [0, 1]; see `precision_recall`.
  """
  generated, real = centred(generated, real, k)
  radii, balls = squared_radii(real, k), 0
  covered = np.zeros(len(real), bool)
  for distances in squared_distances(generated, real):
    inside = distances <= radii
    balls += int(inside.sum())
    covered |= inside.any(axis=0)
  return balls / (k * len(generated)), float(covered.mean())


def centred(
  generated: np.ndarray, real: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns both sets in float64, with the mean of the real one at the origin.

  Centring keeps |x|^2 small, and so the rounding of |x|^2 + |y|^2 - 2 x.y.

  Raises:
    UserError: a set has no more than `k` samples.
  """
  few = min(len(generated), len(real))
  if few <= k:
    raise UserError(
      f"neighbours with k={k} need at least {k + 1} samples a side, and there "
      f"are {few}"
    )
  origin = np.mean(real, axis=0, dtype=np.float64)
  generated = np.asarray(generated, np.float64) - origin
  return generated, np.asarray(real, np.float64) - origin


def squared_radii(points: np.ndarray, k: int) -> np.ndarray:
  """Returns [n] squared distances of all points to their k-th neighbours."""
  # The point itself is the nearest, at distance 0, so index k is the k-th.
  radii = [
    np.partition(distances, k, axis=1)[:, k]
    for distances in squared_distances(points, points)
  ]
  return np.concatenate(radii)


def _share_inside(queries: np.ndarray, centres: np.ndarray, k: int) -> float:
  """Returns the share of `queries` that lie in a ball around a centre."""
  radii = squared_radii(centres, k)
  inside = sum(
    int((distances <= radii).any(axis=1).sum())
    for distances in squared_distances(queries, centres)
  )
  return inside / len(queries)


def squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
  """Yields [rows, m] squared distances, a chunk of `x`'s rows at a time."""
  rows = max(1, _CHUNK_ENTRIES // len(y))
  norms = np.sum(y * y, axis=1)
  for start in range(0, len(x), rows):
    part = x[start : start + rows]
    squares = np.sum(part * part, axis=1)[:, None] + norms - 2.0 * part @ y.T
    yield np.maximum(squares, 0.0)


METRIC = Metric(
  statistic=KEPT_FEATURES,
  compute=lambda generated, reference, options: (
    *precision_recall(generated, reference),
    *density_coverage(generated, reference),
  ),
  keys=_KEYS,
  columns=tuple(Column(key, key, higher_is_better=True) for key in _KEYS),
)
