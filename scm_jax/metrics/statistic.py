"""Statistics of a feature extractor's outputs, which metrics are computed from.

A statistic summarises one output of an extractor (its features, its logits)
over any number of consecutive samples, and merges the summaries of parts that
follow each other. So a set of images is summarised batch by batch and process
by process, without being held.

A metric that needs another statistic defines it as a subclass of `Statistic`
and names it in its `Metric`; no other code has to know it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
Statistics = Mapping[str, Any]  # summaries of one extractor, by statistic name
ImageSet = Mapping[str, Statistics]  # a set's statistics, by extractor name


class Batch(NamedTuple):
  """The position of some consecutive samples in a set.

  Attributes:
    first: index of the first of them.
    total: number of samples in the whole set.
    kept: [n] bool, which of them are to be kept one by one.
  """

  first: int
  total: int
  kept: np.ndarray


class Statistic:
  """Describes how an output of an extractor is summarised.

  Attributes:
    name: its key in `Statistics`.
    output: the output of the extractor that it summarises.
    arrays: the names of the arrays that a summary is stored as.
    merge_last: whether summaries are merged only when the result is needed, and
      not batch by batch, because merging copies all of them.
  """

  name: str
  output: str
  arrays: tuple[str, ...]
  merge_last: bool = False

  def summarize(self, values: np.ndarray, batch: Batch) -> Any:
    """Summarises an output `values` [n, ...] of `n` samples."""
    raise NotImplementedError

  def merge(self, parts: Sequence[Any]) -> Any:
    """Merges summaries of parts that follow each other, one or more."""
    raise NotImplementedError

  def to_arrays(self, summary: Any) -> Arrays:
    """Returns the arrays from which `from_arrays` makes the summary again."""
    return {name: np.asarray(getattr(summary, name)) for name in self.arrays}

  def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> Any:
    """Makes a summary of arrays, of which there may be others."""
    raise NotImplementedError


class KeptFeatures(Statistic):
  """Features [k, d] float32 of the samples that are kept one by one."""

  name, output = "features", "features"
  arrays, merge_last = ("kept",), True

  def summarize(self, values: np.ndarray, batch: Batch) -> np.ndarray:
    return np.asarray(values[batch.kept], np.float32)

  def merge(self, parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)

  def to_arrays(self, summary: np.ndarray) -> Arrays:
    return {"kept": summary}

  def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return arrays["kept"]


KEPT_FEATURES = KeptFeatures()
