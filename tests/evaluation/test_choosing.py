"""Which candidate is chosen, by closed-form Gaussians of known best."""

import dataclasses
import types

import numpy as np
import pytest

from scm_jax.errors import ConfigError, UserError
from scm_jax.evaluation import evaluate, selection
from scm_jax.evaluation.reference import Reference
from scm_jax.evaluation.request import Request
from scm_jax.metrics import frechet, kernel
from scm_jax.metrics.accumulator import Collected

DIM = 64
# The ratios of samples to features that Inception's 2,048 have at 5,000 and at
# 50,000 images.
FEW, MANY = DIM * 5_000 // 2_048, DIM * 50_000 // 2_048
SPREAD = np.sqrt(1 / np.arange(1, DIM + 1))  # of the truth's features
SHRUNK = (0.0, 0.02, 0.04, 0.08)  # candidates: too little deviation by this
TRUTH = frechet.Gaussian(np.zeros(DIM), np.diag(SPREAD**2))


def _drawn(seed: int, num: int) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=(num, DIM)) * SPREAD


REAL = _drawn(99, 1500)


def _fd(features: np.ndarray) -> float:
  return frechet.frechet_distance(frechet.feature_stats(features), TRUTH)


def _kid(features: np.ndarray) -> float:
  whole = {"subset_size": 10_000, "subsets": 1}
  return kernel.kernel_distance(features, REAL, **whole).mean


def _chosen(by: str, distance, num: int, seed: int) -> float:
  """By how much the chosen candidate is shrunk; all draw the same noise."""
  noise = _drawn(seed, num)

  def candidate(share):
    return types.SimpleNamespace(share=share, settings=lambda: {"share": share})

  best, table = selection.choose(
    [candidate(share) for share in SHRUNK],
    lambda candidate: distance(noise * (1 - candidate.share)),
    by,
  )
  assert [row["share"] for row in table] == list(SHRUNK)
  assert min(table, key=lambda row: row[by])["share"] == best.share
  return best.share


@pytest.mark.parametrize("seed", range(3))
def test_a_frechet_distance_of_few_samples_chooses_too_little_variety(seed):
  """At as many as published scores have, or by KID, the truth is chosen."""
  assert _chosen("fd", _fd, FEW, seed) >= 0.02
  assert _chosen("fd", _fd, MANY, seed) == 0.0
  assert _chosen("kid", _kid, FEW, seed) == 0.0


def test_kid_needs_single_features_of_the_reference():
  """Which EDM2's files do not have; asked before anything is drawn."""
  stored = Reference({"inception": Collected(TRUTH)}, {})
  features = {"features": ("inception",), "reference": "img512.pkl"}
  request = Request((), guidance=(1.0, 1.4), select_by="kid", **features)
  with pytest.raises(ConfigError, match="img512.pkl has .* --select-by=fd"):
    evaluate._check_choice(request, stored)
  one = dataclasses.replace(request, guidance=(1.4,))  # nothing to choose
  evaluate._check_choice(one, stored)
  kept = Reference({"inception": Collected(TRUTH, REAL)}, {})
  evaluate._check_choice(request, kept)


def test_one_candidate_is_not_scored():
  def score(candidate):
    raise AssertionError(candidate)

  assert selection.choose(["only"], score, "fd") == ("only", [])
  with pytest.raises(UserError, match="nothing to choose"):
    selection.choose([], score, "fd")
