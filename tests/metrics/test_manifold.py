"""Precision, recall, density, coverage on sets whose answer is known."""

import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import manifold


def _brute_force(queries, centres, k):
  def distances(a, b):
    return np.linalg.norm(a[:, None] - b[None], axis=-1)

  radii = np.sort(distances(centres, centres), axis=1)[:, k]
  return np.mean((distances(queries, centres) <= radii).any(axis=1))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_brute_force_in_any_chunks(k, monkeypatch):
  rng = np.random.default_rng(k)
  generated = rng.normal(size=(90, 3)) * 0.8 + 0.5
  real = rng.normal(size=(70, 3))
  expected = (
    _brute_force(generated, real, k),
    _brute_force(real, generated, k),
  )
  assert 0.05 < min(expected) and max(expected) < 0.99
  assert manifold.precision_recall(generated, real, k=k) == expected
  monkeypatch.setattr(manifold, "_CHUNK_ENTRIES", 700)
  assert manifold.precision_recall(generated, real, k=k) == expected


def test_a_set_against_itself_is_perfect():
  x = np.random.default_rng(0).normal(size=(50, 4))
  assert manifold.precision_recall(x, x) == (1.0, 1.0)


def test_far_sets_share_nothing():
  x = np.random.default_rng(1).normal(size=(50, 4))
  assert manifold.precision_recall(x, x + 1000) == (0.0, 0.0)


def test_missing_mode_costs_recall_only():
  rng = np.random.default_rng(2)
  left, right = rng.normal(size=(2, 100, 2))
  right = right + 100
  found = manifold.precision_recall(left, np.concatenate([left, right]))
  assert found == (1.0, 0.5)


def test_invented_mode_costs_precision_only():
  rng = np.random.default_rng(3)
  real, invented = rng.normal(size=(100, 2)), rng.normal(size=(300, 2)) + 100
  found = manifold.precision_recall(np.concatenate([real, invented]), real)
  assert found == (0.25, 1.0)


def test_collapse_to_one_image_has_no_recall():
  real = np.random.default_rng(4).normal(size=(50, 2))
  copies = np.repeat(real[:1], 50, axis=0)
  assert manifold.precision_recall(copies, real) == (1.0, 1 / 50)


def test_features_far_from_zero_lose_nothing():
  rng = np.random.default_rng(5)
  x, y = rng.normal(size=(2, 60, 3))
  near = manifold.precision_recall(x, y)
  assert manifold.precision_recall(x + 1e6, y + 1e6) == near


def test_too_few_samples():
  with pytest.raises(errors.UserError, match="at least 4 samples"):
    manifold.precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))


@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_agree_with_brute_force(k, monkeypatch):
  rng = np.random.default_rng(k)
  generated = rng.normal(size=(90, 3)) * 0.8 + 0.5
  real = rng.normal(size=(70, 3))
  within = np.linalg.norm(real[:, None] - real[None], axis=-1)
  radii = np.sort(within, axis=1)[:, k]
  across = np.linalg.norm(generated[:, None] - real[None], axis=-1)
  inside = across <= radii
  expected = (inside.sum() / (k * 90), inside.any(axis=0).mean())
  assert 0.2 < expected[1] < 0.99
  for chunk in (manifold._CHUNK_ENTRIES, 700):
    monkeypatch.setattr(manifold, "_CHUNK_ENTRIES", chunk)
    found = manifold.density_coverage(generated, real, k=k)
    assert found == pytest.approx(expected, rel=1e-12)


def test_an_outliers_ball_counts_little_in_density():
  """The papers' example: recall's and precision's balls reach too far."""
  rng = np.random.default_rng(6)
  real = np.concatenate([rng.normal(size=(200, 2)), [[100.0, 0.0]]])
  halfway = rng.normal(size=(200, 2)) + [50.0, 0.0]
  assert manifold.precision_recall(halfway, real)[0] > 0.4
  density, coverage = manifold.density_coverage(halfway, real)
  assert density < 0.25 and coverage == pytest.approx(1 / 201)
