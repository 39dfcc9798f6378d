"""Inception Score: how certain and how varied a classifier finds images.

Salimans et al. (2016, arXiv:1606.03498, section 4): with the classifier's
probabilities `p(y|x)`, `exp(E_x KL(p(y|x) || p(y)))`. By convention the images
are cut into ten parts in the order they were made, each part is scored with
its own `p(y)`, and mean and standard deviation over the parts are given. A
part's mean KL is `E_x sum_y p log p - sum_y p(y) log p(y)`, so sums over
samples suffice and nothing needs to be kept.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

PARTS = 10


class InceptionScore(NamedTuple):
  """Mean and standard deviation over the parts; and of all images as one."""

  mean: float
  sd: float
  whole: float


@dataclasses.dataclass
class ClassSums:
  """Sums of class probabilities over samples, part by part.

  Attributes:
    total: how many samples there will be, which fixes the parts.
    counts: [parts] samples so far.
    probabilities: [parts, K] sums of p(y|x).
    negentropies: [parts] sums of sum_y p log p.
  """

  total: int
  counts: np.ndarray
  probabilities: np.ndarray
  negentropies: np.ndarray

  @classmethod
  def empty(cls, total: int, classes: int, parts: int = PARTS) -> "ClassSums":
    """Sums of no samples yet; no more parts than samples."""
    parts = min(parts, total)
    sums = np.zeros((parts, classes))
    return cls(total, np.zeros(parts), sums, np.zeros(parts))

  def add(self, start: int, logits: np.ndarray) -> None:
    """Adds the logits [n, K] of samples `start` and following."""
    p, negentropy = _softmax(np.asarray(logits, np.float64))
    parts = len(self.counts)
    # Part of sample i: i * parts // total, as equal as whole numbers allow.
    part = (start + np.arange(len(p))) * parts // self.total
    for index in np.unique(part):
      mine = part == index
      self.counts[index] += mine.sum()
      self.probabilities[index] += p[mine].sum(axis=0)
      self.negentropies[index] += negentropy[mine].sum()

  def score(self) -> InceptionScore:
    """The score of all samples, once they are there."""
    if self.counts.sum() != self.total:
      raise ValueError(f"{self.counts.sum():g} of {self.total} samples")
    parts = [
      _score(*sums)
      for sums in zip(
        self.counts, self.probabilities, self.negentropies, strict=True
      )
    ]
    whole = _score(
      self.counts.sum(), self.probabilities.sum(0), self.negentropies.sum()
    )
    return InceptionScore(float(np.mean(parts)), float(np.std(parts)), whole)


def _softmax(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Probabilities [n, K], and sum_y p log p [n]."""
  shifted = logits - logits.max(axis=1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
  p = np.exp(log_p)
  return p, (p * log_p).sum(axis=1)


def _score(count: float, probabilities: np.ndarray, negentropy: float) -> float:
  marginal = probabilities / count
  positive = marginal[marginal > 0]
  spread = np.sum(positive * np.log(positive))
  return float(np.exp(negentropy / count - spread))
