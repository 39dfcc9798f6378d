"""The registry of metrics, which scores, reports and their docs read."""

from collections.abc import Collection

from scm_jax.errors import ConfigError
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
  """Returns the metrics by the keys of their scores in `report.json`.

  Raises:
    ConfigError: two of them have the same key, or one prints a score that it
      does not compute.
  """
  found: dict[str, Metric] = {}
  for metric in METRICS:
    for key in metric.keys:
      if key in found:
        raise ConfigError(
          f"two metrics have the score {key!r}; give that of the plug-in "
          "another key"
        )
      found[key] = metric
    for column in metric.columns:
      if column.key not in metric.keys:
        raise ConfigError(
          f"the metric with the scores {', '.join(metric.keys)} has a column "
          f"of {column.key!r}, which is none of them"
        )
  return found


def columns() -> dict[str, Column]:
  """Returns what reports print, by the scores' keys."""
  return {column.key: column for m in METRICS for column in m.columns}


def statistics(outputs: Collection[str] | None = None) -> dict[str, Statistic]:
  """Returns the statistics that metrics need of some outputs, or of all.

  Raises:
    ConfigError: two of them have the same name.
  """
  found: dict[str, Statistic] = {}
  for metric in METRICS:
    mine = metric.statistic
    if found.setdefault(mine.name, mine) is not mine:
      raise ConfigError(
        f"two metrics have different statistics of the name {mine.name!r}; "
        "give that of the plug-in another name"
      )
  return {
    name: statistic
    for name, statistic in found.items()
    if outputs is None or statistic.output in outputs
  }
