"""The registry of metrics, which scores, reports and their docs read."""

from collections.abc import Collection

from scm_jax.metrics import (
  class_shares,
  cmmd,
  frechet,
  frechet_infinity,
  inception_score,
  kernel,
  label_error,
  manifold,
  nearest,
  spatial,
)
from scm_jax.metrics.metric import Column, Metric, Statistic

# In the order in which they are computed and printed.
METRICS: tuple[Metric, ...] = (
  frechet.METRIC,
  frechet_infinity.METRIC,
  spatial.METRIC,
  kernel.METRIC,
  cmmd.METRIC,
  manifold.METRIC,
  nearest.METRIC,
  inception_score.METRIC,
  class_shares.METRIC,
  label_error.METRIC,
)


def by_key() -> dict[str, Metric]:
  """Returns the metrics by the keys of their scores in `report.json`."""
  return {key: metric for metric in METRICS for key in metric.keys}


def columns() -> dict[str, Column]:
  """Returns what reports print, by the scores' keys."""
  return {column.key: column for m in METRICS for column in m.columns}


def statistics(outputs: Collection[str] | None = None) -> dict[str, Statistic]:
  """Returns the statistics that metrics need of some outputs, or of all."""
  return {
    metric.statistic.name: metric.statistic
    for metric in METRICS
    if outputs is None or metric.statistic.output in outputs
  }
