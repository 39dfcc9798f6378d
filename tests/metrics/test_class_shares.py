"""Shares of classes and wrong classes, as a classifier finds them."""

import numpy as np
import pytest
from scipy import stats

from scm_jax.metrics import class_shares, label_error
from scm_jax.metrics.metric import Options

RNG = np.random.default_rng(0)
REAL = RNG.choice(4, 2000, p=[0.4, 0.3, 0.2, 0.1])


def test_chi_square_is_pearsons():
  other = RNG.choice(4, 500, p=[0.3, 0.3, 0.2, 0.2])
  shares = np.bincount(REAL) / len(REAL)
  expected = stats.chisquare(np.bincount(other), 500 * shares)
  least, per_freedom = class_shares.class_shares(other, REAL)
  assert per_freedom == pytest.approx(expected.statistic / 3)
  assert least == pytest.approx((np.bincount(other) / 500 / shares).min())


def test_the_same_law_is_chance_and_a_forgotten_class_is_seen():
  drawn = [RNG.choice(REAL, 1000) for _ in range(200)]
  found = [class_shares.class_shares(x, REAL) for x in drawn]
  assert np.mean([x for _, x in found]) == pytest.approx(1.0, abs=0.2)
  least, per_freedom = class_shares.class_shares(REAL[REAL != 3], REAL)
  assert least == 0.0 and per_freedom > 20
  # A class that real images lack takes from the others.
  least, _ = class_shares.class_shares(np.append(REAL, [9] * 500), REAL)
  assert least == pytest.approx(0.8)
  assert class_shares.class_shares(np.zeros(9, int), np.zeros(5, int)) == ()


def test_wrong_classes_are_counted_where_classes_were_asked():
  found = {"found_classes": np.array([0, 1, 2, 2])}
  score = lambda asked: label_error.METRIC.score(
    found, {}, Options(asked=asked)
  )
  assert score(np.array([0, 1, 1, 2])) == ({"label_error": 0.25}, "")
  assert score(None) == ({}, "")
