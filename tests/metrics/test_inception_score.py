"""Inception Score against its definition."""

import numpy as np
import pytest

from scm_jax.metrics.inception_score import (
  METRIC,
  inception_score,
  sum_classes,
)


def _by_definition(p, parts):
  """exp(mean KL(p(y|x) || p(y))) of each of so many random parts."""
  found = []
  order = np.argsort(np.random.default_rng(0).permutation(len(p)))
  for part in np.array_split(p[order], parts):
    marginal = part.mean(axis=0)
    kl = np.sum(part * (np.log(part) - np.log(marginal)), axis=1)
    found.append(np.exp(kl.mean()))
  return found


@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_is_its_definition_in_any_batches(size):
  logits = np.random.default_rng(0).normal(size=(200, 5)) * 3 + 500
  p = np.exp(logits - 500)
  p /= p.sum(axis=1, keepdims=True)
  batches = [
    sum_classes(logits[start : start + size], start, 200)
    for start in range(0, 200, size)
  ]
  mean, sd, whole = inception_score(METRIC.statistic.merge(batches))
  parts = _by_definition(p, 10)
  assert mean == pytest.approx(np.mean(parts), rel=1e-10)
  assert sd == pytest.approx(np.std(parts), rel=1e-8)
  assert whole == pytest.approx(_by_definition(p, 1)[0], rel=1e-10)


def test_bounds():
  """Certain and varied: the number of classes; all alike: one."""
  certain = np.tile(np.eye(4) * 1000.0, (100, 1))
  for logits, expected in ((certain, 4.0), (np.zeros((400, 4)), 1.0)):
    mean, sd, whole = inception_score(sum_classes(logits, 0, 400))
    assert whole == pytest.approx(expected, abs=1e-9)
    # Parts of 40 have each class a little more or less often.
    assert mean == pytest.approx(expected, rel=0.06) and sd < 0.1


def test_the_order_of_images_does_not_matter():
  """Ten classes, one after the other or mixed."""
  classes = np.repeat(np.arange(10), 100)
  mixed = np.random.default_rng(1).permutation(classes)
  cycled = np.arange(1000) % 10
  for labels in (classes, mixed, cycled):
    logits = np.eye(10)[labels] * 1000.0
    mean, _, _ = inception_score(sum_classes(logits, 0, 1000))
    assert mean == pytest.approx(10.0, rel=0.06)


def test_few_samples_are_as_many_parts():
  sums = sum_classes(np.zeros((3, 2)), 0, 3)
  assert len(sums.counts) == 3
  assert inception_score(sums)[0] == pytest.approx(1.0)
