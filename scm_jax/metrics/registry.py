"""The registry of metrics, which scores, reports and their docs read."""

from collections.abc import Collection

from scm_jax.metrics import frechet, inception_score, kernel, manifold
from scm_jax.metrics.metric import Column, Metric
from scm_jax.metrics.statistic import Statistic

# In the order in which they are computed and printed.
METRICS: tuple[Metric, ...] = (
  frechet.METRIC,
  kernel.METRIC,
  manifold.METRIC,
  inception_score.METRIC,
)


def keys() -> list[str]:
  """Returns the keys that scores have in `report.json`."""
  return [key for metric in METRICS for key in metric.keys]


def columns() -> dict[str, Column]:
  """Returns what reports print, by the scores' keys."""
  return {column.key: column for m in METRICS for column in m.columns}


def metric_of(key: str) -> Metric:
  """Returns the metric that computes a score; raises KeyError if none does."""
  return {k: metric for metric in METRICS for k in metric.keys}[key]


def statistics(
  outputs: Collection[str] | None = None,
) -> dict[str, Statistic]:
  """Returns the statistics that metrics need, by name.

  Args:
    outputs: names of an extractor's outputs, to leave out statistics of others;
      None leaves out none.
  """
  return {
    metric.statistic.name: metric.statistic
    for metric in METRICS
    if outputs is None or metric.statistic.output in outputs
  }
