"""Inception Score against its definition."""

import numpy as np
import pytest

from scm_jax.metrics.inception_score import ClassSums


def _by_definition(p, parts):
  """exp(mean KL(p(y|x) || p(y))) of each part."""
  found = []
  for part in np.array_split(p, parts):
    marginal = part.mean(axis=0)
    kl = np.sum(part * (np.log(part) - np.log(marginal)), axis=1)
    found.append(np.exp(kl.mean()))
  return found


@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_is_its_definition_in_any_batches(size):
  logits = np.random.default_rng(0).normal(size=(200, 5)) * 3 + 500
  p = np.exp(logits - 500)
  p /= p.sum(axis=1, keepdims=True)
  sums = ClassSums.empty(200, 5)
  for start in range(0, 200, size):
    sums.add(start, logits[start : start + size])
  found, parts = sums.score(), _by_definition(p, 10)
  assert found.mean == pytest.approx(np.mean(parts), rel=1e-10)
  assert found.sd == pytest.approx(np.std(parts), rel=1e-8)
  assert found.whole == pytest.approx(_by_definition(p, 1)[0], rel=1e-10)


def test_bounds():
  """Certain and varied: the number of classes; all alike: one."""
  certain = np.tile(np.eye(4) * 1000.0, (100, 1))
  for logits, expected in ((certain, 4.0), (np.zeros((400, 4)), 1.0)):
    sums = ClassSums.empty(400, 4)
    sums.add(0, logits)
    assert sums.score() == pytest.approx((expected, 0.0, expected), abs=1e-9)


def test_few_samples_are_as_many_parts():
  sums = ClassSums.empty(3, 2)
  sums.add(0, np.zeros((2, 2)))
  with pytest.raises(ValueError, match="2 of 3"):
    sums.score()
  sums.add(2, np.zeros((1, 2)))
  assert len(sums.counts) == 3 and sums.score().mean == pytest.approx(1.0)
