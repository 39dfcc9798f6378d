"""The description of a metric: what it needs, computes, and how it is printed.

A metric is one module that ends with a `Metric`, and one line in `registry`. It
is computed from a statistic, which summarises one output of a feature extractor
over consecutive samples, and merges the summaries of parts that follow each
other, so that a set of images is never held.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from scm_jax.errors import ConfigError, UserError

Arrays = dict[str, np.ndarray]
Statistics = Mapping[str, Any]  # summaries of one extractor, by statistic name
ImageSet = Mapping[str, Statistics]  # a set's statistics, by extractor name


class Batch(NamedTuple):
  """The position of some consecutive samples in a set."""

  first: int  # index of the first of them
  total: int  # number of samples in the whole set
  kept: np.ndarray  # [n] bool: which of them are to be kept one by one


@dataclasses.dataclass(frozen=True)
class Statistic:
  """A way to summarise an output of an extractor.

  A summary is one array, or has attributes with the names of its arrays.
  `summarize(values, batch)` makes one of the output [n, ...] of `n` samples,
  `make` of its arrays, and `merge` of those of parts that follow each other.
  """

  name: str  # its key in `Statistics`
  output: str  # the output of the extractor that it summarises
  arrays: tuple[str, ...]  # the names of a summary's arrays
  summarize: Callable[[np.ndarray, Batch], Any]
  merge: Callable[[Sequence[Any]], Any]
  make: Callable[..., Any] = lambda array: array
  merge_last: bool = False  # once in the end, because it copies all parts
  prefix: str = ""  # of the arrays' names where they are stored

  @property
  def stored(self) -> tuple[str, ...]:
    """Returns the names under which its arrays are stored."""
    return tuple(self.prefix + name for name in self.arrays)

  def to_arrays(self, summary: Any) -> Arrays:
    """Returns the arrays from which `from_arrays` makes the summary again."""
    if isinstance(summary, np.ndarray):
      return {self.stored[0]: summary}
    found = [np.asarray(getattr(summary, name)) for name in self.arrays]
    return dict(zip(self.stored, found, strict=True))

  def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> Any:
    """Makes a summary of arrays, of which there may be others."""
    found = [arrays[name] for name in self.stored]
    return self.make(*(x if x.ndim else x.item() for x in found))


# Features [k, d] float32 of the samples that are kept one by one.
KEPT_FEATURES = Statistic(
  name="features",
  output="features",
  arrays=("kept",),
  summarize=lambda values, batch: np.asarray(values[batch.kept], np.float32),
  merge=np.concatenate,
  merge_last=True,
)


@dataclasses.dataclass(frozen=True)
class Options:
  """The settings with which scores are computed."""

  seed: int = 0  # of random subsets
  allow_few: bool = False  # Fréchet distances of fewer samples than features
  subset_size: int = 1000  # samples in a random subset
  subsets: int = 20  # random subsets
  asked: np.ndarray | None = None  # [n] classes that samples should show


@dataclasses.dataclass(frozen=True)
class Column:
  """A score as reports print it."""

  key: str  # the score's key in `report.json`
  heading: str
  scale: float = 1.0  # the factor that the printed number is multiplied by
  digits: int = 3  # after the decimal point
  higher_is_better: bool = False


@dataclasses.dataclass(frozen=True)
class Metric:
  """A way to score generated images by the statistics of their features.

  `compute(generated, reference, options)`, of summaries by the statistic,
  returns the scores in the order of `keys`, or none of a set that is too small;
  `warn(generated, reference)` a
  sentence on why they mean little, or "". The reference is None for a metric
  that does not compare with one, which is computed, and printed, only for
  extractors that give what it needs.
  """

  statistic: Statistic
  compute: Callable[[Any, Any, Options], tuple[float, ...]]
  keys: tuple[str, ...]  # of the scores in `report.json`
  columns: tuple[Column, ...]  # the scores that reports print
  compares: bool = True
  warn: Callable[[Any, Any], str] = lambda generated, reference: ""
  against: Statistic | None = None  # of the reference, where it is another

  @property
  def reference_statistic(self) -> Statistic:
    """Returns the statistic that the reference must have."""
    return self.against or self.statistic

  def score(
    self, generated: Statistics, reference: Statistics, options: Options
  ) -> tuple[dict[str, float], str]:
    """Returns the scores by key, and a warning or "".

    There are no scores if a set lacks the statistic that the metric needs, or
    is too small.

    Raises:
      ConfigError: `compute` returns other than one score for each key.
      UserError: a score is not finite.
    """
    name, theirs = self.statistic.name, self.reference_statistic.name
    if name not in generated or (self.compares and theirs not in reference):
      return {}, ""
    sets = generated[name], reference.get(theirs)
    scores = self.compute(*sets, options)
    if not scores:
      return {}, ""
    keys = ", ".join(self.keys)
    if len(scores) != len(self.keys):
      raise ConfigError(
        f"the metric of {keys} computes {len(scores)} scores, not "
        f"{len(self.keys)}"
      )
    if not np.isfinite(scores).all():
      raise UserError(f"the metric of {keys} computes {scores}: not finite")
    return dict(zip(self.keys, scores, strict=True)), self.warn(*sets)
