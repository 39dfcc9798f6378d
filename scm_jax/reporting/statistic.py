"""Mean, deviation and minimum of a score over seeds."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Statistic(NamedTuple):
  """A score over repetitions.

  Attributes:
    mean: of the repetitions.
    sd: of a sample (n - 1); None for one.
    least: of all single measurements.
    count: repetitions.
  """

  mean: float
  sd: float | None
  least: float
  count: int

  def text(self) -> str:
    """`0.133 ± 0.015`."""
    mean = short(self.mean)
    return mean if self.sd is None else f"{mean} ± {short(self.sd)}"


def over(trainings: Iterable[Sequence[float]]) -> Statistic | None:
  """The statistic of measurements, by training.

  Several trainings are the repetitions, each by its mean, because what differs
  among their samples is the smaller part. Of one training they are its seeds
  of sampling.

  Returns:
    None when there is nothing.
  """
  sets = [list(values) for values in trainings if values]
  if not sets:
    return None
  repeated = [statistics.fmean(s) for s in sets] if sets[1:] else sets[0]
  return Statistic(
    statistics.fmean(repeated),
    statistics.stdev(repeated) if repeated[1:] else None,
    min(min(values) for values in sets),
    len(repeated),
  )


def number(value: Any) -> float | None:
  """A finite number, or None for anything else."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  return float(value) if math.isfinite(value) else None


def by_seed(record: Mapping[str, Any], metric: str, space: str) -> dict:
  """A record's measurements of one score, by seed of sampling."""
  sets = record.get("by_seed") or [record]
  found = {}
  for each in sets:
    scores = each.get(metric)
    value = number(scores.get(space)) if isinstance(scores, Mapping) else None
    if value is not None:
      found[each.get("seed")] = value
  return found


def short(value: float) -> str:
  """About three digits, never in scientific notation for usual scores."""
  size = abs(value)
  if size >= 100:
    return f"{value:.0f}"
  if size >= 10:
    return f"{value:.1f}"
  return f"{value:.2g}" if 1e-9 < size < 0.001 else f"{value:.3f}"
