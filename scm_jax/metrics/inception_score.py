"""Inception Score: how certain and how varied a classifier finds images.

Salimans et al. (2016, arXiv:1606.03498, section 4): with the classifier's
probabilities `p(y|x)`, `exp(E_x KL(p(y|x) || p(y)))`. By convention the images
are cut into ten parts in the order they were made, each part is scored with
its own `p(y)`, and mean and standard deviation over the parts are given. A
part's mean KL is `E_x sum_y p log p - sum_y p(y) log p(y)`, so sums over
samples suffice and nothing needs to be kept.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scm_jax.metrics.metric import Column, Metric, Options
from scm_jax.metrics.statistic import Batch, Statistic

PARTS = 10


class InceptionScore(NamedTuple):
  """Mean and standard deviation over the parts; and of all images as one."""

  mean: float
  sd: float
  whole: float


@dataclasses.dataclass(frozen=True)
class ClassSums:
  """Sums of class probabilities over samples, part by part.

  Attributes:
    counts: [parts] number of samples.
    probabilities: [parts, K] sums of p(y|x).
    negentropies: [parts] sums of sum_y p log p.
  """

  counts: np.ndarray
  probabilities: np.ndarray
  negentropies: np.ndarray

  def __add__(self, other: "ClassSums") -> "ClassSums":
    return ClassSums(
      self.counts + other.counts,
      self.probabilities + other.probabilities,
      self.negentropies + other.negentropies,
    )


def sum_classes(logits: np.ndarray, first: int, total: int) -> ClassSums:
  """Returns the sums of some consecutive samples.

  Args:
    logits: [n, K] logits of the samples.
    first: index of the first of them.
    total: number of samples in the whole set, which fixes the parts; there are
      no more parts than samples.
  """
  p, negentropy = _softmax(np.asarray(logits, np.float64))
  parts = min(PARTS, total)
  sums = ClassSums(
    np.zeros(parts), np.zeros((parts, p.shape[1])), np.zeros(parts)
  )
  # Part of sample i: i * parts // total, as equal as whole numbers allow.
  part = (first + np.arange(len(p))) * parts // total
  for index in np.unique(part):
    inside = part == index
    sums.counts[index] = inside.sum()
    sums.probabilities[index] = p[inside].sum(axis=0)
    sums.negentropies[index] = negentropy[inside].sum()
  return sums


def inception_score(sums: ClassSums) -> InceptionScore:
  """Computes the score from the sums of all samples."""
  rows = zip(sums.counts, sums.probabilities, sums.negentropies, strict=True)
  parts = [_score(*row) for row in rows]
  whole = _score(
    sums.counts.sum(), sums.probabilities.sum(0), sums.negentropies.sum()
  )
  return InceptionScore(float(np.mean(parts)), float(np.std(parts)), whole)


def _softmax(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns probabilities [n, K], and sum_y p log p [n]."""
  shifted = logits - logits.max(axis=1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
  p = np.exp(log_p)
  return p, (p * log_p).sum(axis=1)


def _score(count: float, probabilities: np.ndarray, negentropy: float) -> float:
  """Computes exp(mean KL) from sums over `count` samples."""
  marginal = probabilities / count
  positive = marginal[marginal > 0]
  spread = np.sum(positive * np.log(positive))
  return float(np.exp(negentropy / count - spread))


class _ClassSumsStatistic(Statistic):
  """Class probabilities of an extractor that gives logits [n, K]."""

  name, output = "classes", "logits"
  arrays = ("counts", "probabilities", "negentropies")

  def summarize(self, values: np.ndarray, batch: Batch) -> ClassSums:
    return sum_classes(values, batch.first, batch.total)

  def merge(self, parts: Sequence[ClassSums]) -> ClassSums:
    return sum(parts[1:], start=parts[0])

  def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> ClassSums:
    return ClassSums(*(arrays[name] for name in self.arrays))


CLASSES = _ClassSumsStatistic()


def _compute(
  generated: ClassSums, reference: None, options: Options
) -> dict[str, float]:
  del reference, options
  return dict(zip(METRIC.keys, inception_score(generated), strict=True))


METRIC = Metric(
  name="inception_score",
  statistic=CLASSES,
  compute=_compute,
  keys=("inception_score", "inception_score_sd", "inception_score_whole"),
  columns=(Column("inception_score", "IS", higher_is_better=True),),
  compares=False,
)
