"""Inception Score: how certain and how varied a classifier finds images.

Salimans et al. (2016, arXiv:1606.03498, section 4): with the classifier's
probabilities `p(y|x)`, `exp(E_x KL(p(y|x) || p(y)))`. By convention the images
are cut into ten parts, which are scored with their own `p(y)`; at random, since
images may be sorted by their classes. A part's mean KL is `E_x sum_y p log p -
sum_y p(y) log p(y)`, so sums suffice.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scm_jax.metrics.metric import Column, Metric, Statistic

PARTS = 10


class ClassSums(NamedTuple):
  """Sums of class probabilities over samples, part by part."""

  counts: np.ndarray  # [parts] number of samples
  probabilities: np.ndarray  # [parts, K] sums of p(y|x)
  negentropies: np.ndarray  # [parts] sums of sum_y p log p


def sum_classes(logits: np.ndarray, first: int, total: int) -> ClassSums:
  """Returns the sums of consecutive samples' logits [n, K].

  The first of them has the index `first` in a set of `total` samples.
  """
  logits = np.asarray(logits, np.float64)
  shifted = logits - logits.max(axis=1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
  p = np.exp(log_p)
  negentropy = (p * log_p).sum(axis=1)
  parts = min(PARTS, total)
  sums = ClassSums(*map(np.zeros, (parts, (parts, p.shape[1]), parts)))
  part = _parts(total)[first : first + len(p)]
  for index in np.unique(part):
    inside = part == index
    sums.counts[index] = inside.sum()
    sums.probabilities[index] = p[inside].sum(axis=0)
    sums.negentropies[index] = negentropy[inside].sum()
  return sums


@functools.lru_cache(maxsize=1)
def _parts(total: int) -> np.ndarray:
  """Returns each sample's part `[total]`: random, always the same, and equal.

  They are as equal as whole numbers allow.
  """
  order = np.random.default_rng(0).permutation(total)
  return order * min(PARTS, total) // total


def inception_score(sums: ClassSums) -> tuple[float, float, float]:
  """Computes the score from the sums of all samples.

  Returns mean and deviation over the parts, and the score of all images as one.
  """
  parts = list(map(_score, *sums))
  whole = _score(*(values.sum(axis=0) for values in sums))
  return float(np.mean(parts)), float(np.std(parts)), whole


def _score(count: float, probabilities: np.ndarray, negentropy: float) -> float:
  """Computes exp(mean KL) from sums over `count` samples."""
  marginal = probabilities / count
  positive = marginal[marginal > 0]
  spread = np.sum(positive * np.log(positive))
  return float(np.exp(negentropy / count - spread))


def _merge(parts: Sequence[ClassSums]) -> ClassSums:
  columns = zip(*parts, strict=True)
  return ClassSums(*(functools.reduce(np.add, column) for column in columns))


CLASSES = Statistic(
  name="classes",
  output="logits",
  arrays=ClassSums._fields,
  summarize=lambda values, batch: sum_classes(values, batch.first, batch.total),
  merge=_merge,
  make=ClassSums,
)
METRIC = Metric(
  statistic=CLASSES,
  compute=lambda generated, reference, options: inception_score(generated),
  keys=("inception_score", "inception_score_sd", "inception_score_whole"),
  columns=(Column("inception_score", "IS", higher_is_better=True),),
  compares=False,
)
