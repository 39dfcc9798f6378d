"""Precision and recall, density and coverage of generated samples.

Kynkäänniemi et al. (2019, arXiv:1904.06991): each set's manifold is the union
of the balls around its samples that reach their k-th nearest neighbour in the
same set. Precision is the share of generated samples inside the real manifold
(are they realistic?), recall the share of real samples inside the generated
one (is everything covered?).

Naeem et al. (2020, arXiv:2002.09797) count the real balls that a generated
sample lies in, which a single outlier's ball moves less: density is their mean
number over k (it may exceed 1), coverage the share of real balls with a
generated sample inside.

All four depend on the sample sizes; compare them only at equal ones.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics.metric import Column, Metric, Options
from scm_jax.metrics.statistic import KEPT_FEATURES

_CHUNK_ENTRIES = 1 << 24  # distances held at a time: 128 MiB in float64


class PrecisionRecall(NamedTuple):
  """Shares of samples, each in [0, 1]."""

  precision: float
  recall: float


class DensityCoverage(NamedTuple):
  """Density, at least 0, and coverage in [0, 1]."""

  density: float
  coverage: float


def precision_recall(
  generated: np.ndarray, real: np.ndarray, *, k: int = 3
) -> PrecisionRecall:
  """Computes precision and recall of `generated` [n, d] against `real` [m, d].

  Args:
    generated: features of generated samples.
    real: features of real samples.
    k: rank of the neighbour whose distance is a ball's radius; the sample
      itself is not counted.

  Raises:
    UserError: a set has no more than `k` samples.
  """
  generated, real = _centred(generated, real, k)
  return PrecisionRecall(
    precision=_share_inside(generated, real, _squared_radii(real, k)),
    recall=_share_inside(real, generated, _squared_radii(generated, k)),
  )


def density_coverage(
  generated: np.ndarray, real: np.ndarray, *, k: int = 5
) -> DensityCoverage:
  """Computes density and coverage of `generated` [n, d] against `real` [m, d].

  Args:
    generated: features of generated samples.
    real: features of real samples.
    k: rank of the neighbour whose distance is a ball's radius; the paper
      takes 5.

  Raises:
    UserError: a set has no more than `k` samples.
  """
  generated, real = _centred(generated, real, k)
  radii, balls = _squared_radii(real, k), 0
  covered = np.zeros(len(real), bool)
  for distances in _squared_distances(generated, real):
    inside = distances <= radii
    balls += int(inside.sum())
    covered |= inside.any(axis=0)
  return DensityCoverage(balls / (k * len(generated)), float(covered.mean()))


def _centred(
  generated: np.ndarray, real: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns both sets in float64, with the mean of the real one at the origin.

  Distances do not move with the origin; centring keeps |x|^2 small, and so the
  rounding of |x|^2 + |y|^2 - 2 x.y.
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


def _squared_radii(points: np.ndarray, k: int) -> np.ndarray:
  """Returns [n] squared distances of all points to their k-th neighbours."""
  radii = []
  for distances in _squared_distances(points, points):
    # The point itself is the nearest, at distance 0, so index k is the k-th.
    radii.append(np.partition(distances, k, axis=1)[:, k])
  return np.concatenate(radii)


def _share_inside(
  queries: np.ndarray, centres: np.ndarray, squared_radii: np.ndarray
) -> float:
  """Returns the share of `queries` that lie in at least one of the balls."""
  inside = 0
  for distances in _squared_distances(queries, centres):
    inside += int((distances <= squared_radii).any(axis=1).sum())
  return inside / len(queries)


def _squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
  """Yields [rows, m] squared distances, a chunk of `x`'s rows at a time."""
  rows = max(1, _CHUNK_ENTRIES // len(y))
  norms = np.sum(y * y, axis=1)
  for start in range(0, len(x), rows):
    part = x[start : start + rows]
    squares = np.sum(part * part, axis=1)[:, None] + norms - 2.0 * part @ y.T
    yield np.maximum(squares, 0.0)


def _compute(
  generated: np.ndarray, reference: np.ndarray, options: Options
) -> dict[str, float]:
  del options
  inside = precision_recall(generated, reference)
  counted = density_coverage(generated, reference)
  return {**inside._asdict(), **counted._asdict()}


METRIC = Metric(
  name="manifold",
  statistic=KEPT_FEATURES,
  compute=_compute,
  keys=(*PrecisionRecall._fields, *DensityCoverage._fields),
  columns=(
    Column("precision", "precision", higher_is_better=True),
    Column("recall", "recall", higher_is_better=True),
    Column("density", "density", higher_is_better=True),
    Column("coverage", "coverage", higher_is_better=True),
  ),
)
