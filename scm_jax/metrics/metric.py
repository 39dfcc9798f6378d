"""The description of a metric: what it needs, computes, and how it is printed.

A metric is one module that ends with a `Metric`, and one line in `registry`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from scm_jax.metrics.statistic import Statistic, Statistics


@dataclasses.dataclass(frozen=True)
class Options:
  """The settings with which scores are computed.

  Attributes:
    seed: seed of random subsets.
    allow_few: compute a Fréchet distance even with fewer samples than features.
    subset_size: number of samples in a random subset.
    subsets: number of random subsets.
  """

  seed: int = 0
  allow_few: bool = False
  subset_size: int = 1000
  subsets: int = 20


@dataclasses.dataclass(frozen=True)
class Column:
  """A score as reports print it.

  Attributes:
    key: the score's key in `report.json`.
    heading: the title of its column.
    scale: the factor that the printed number is multiplied by.
    digits: number of digits after the decimal point.
    higher_is_better: whether a larger value is the better one.
  """

  key: str
  heading: str
  scale: float = 1.0
  digits: int = 3
  higher_is_better: bool = False


def _no_warning(generated: Any, reference: Any) -> str:
  del generated, reference
  return ""


@dataclasses.dataclass(frozen=True)
class Metric:
  """A way to score generated images by the statistics of their features.

  Attributes:
    name: the metric's name.
    statistic: what it needs to know of the generated images, and, if it
      compares, of the reference images.
    compute: `compute(generated, reference, options)`, of summaries by the
      statistic, returns the scores by their keys in `report.json`. The
      reference is None if it does not compare.
    keys: the keys of all scores that it computes.
    columns: the scores that reports print.
    compares: whether it compares with reference images. One that does not is
      computed, and printed, only for extractors that give what it needs.
    warn: `warn(generated, reference)`, of summaries by the statistic, returns
      a sentence on why the scores mean little, or "".
  """

  name: str
  statistic: Statistic
  compute: Callable[[Any, Any, Options], dict[str, float]]
  keys: tuple[str, ...]
  columns: tuple[Column, ...]
  compares: bool = True
  warn: Callable[[Any, Any], str] = _no_warning

  def score(
    self, generated: Statistics, reference: Statistics, options: Options
  ) -> tuple[dict[str, float], str]:
    """Returns the scores by key, and a warning or "".

    There are no scores if a set lacks the statistic that the metric needs.
    """
    name = self.statistic.name
    if name not in generated or (self.compares and name not in reference):
      return {}, ""
    sets = generated[name], reference.get(name)
    return self.compute(*sets, options), self.warn(*sets)
