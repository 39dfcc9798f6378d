"""Distances to the nearest real images, of sets whose answer is known."""

import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import manifold, nearest


def _brute_force(generated, real):
  def distances(a, b):
    return np.linalg.norm(a[:, None] - b[None], axis=-1)

  between = np.sort(distances(real, real), axis=1)[:, 1]
  across = distances(generated, real)
  ratio = np.median(across.min(axis=1)) / np.median(between)
  far = across.min(axis=1) > between[across.argmin(axis=1)]
  return ratio, far.mean()


def test_agrees_with_brute_force_in_any_chunks(monkeypatch):
  rng = np.random.default_rng(0)
  generated, real = rng.normal(size=(90, 3)) + 5, rng.normal(size=(70, 3)) + 5
  expected = pytest.approx(_brute_force(generated, real), rel=1e-9)
  assert nearest.nearest_real(generated, real) == expected
  monkeypatch.setattr(manifold, "_CHUNK_ENTRIES", 700)
  assert nearest.nearest_real(generated, real) == expected


def test_copies_are_near_and_fresh_samples_are_not():
  rng = np.random.default_rng(1)
  real, fresh = rng.normal(size=(2, 1000, 8))
  ratio, authentic = nearest.nearest_real(fresh, real)
  assert ratio == pytest.approx(1.0, abs=0.03) and 0.4 < authentic < 0.6
  # A half of them are real images, hardly changed.
  mixed = np.concatenate([fresh[:500], real[:500] + 1e-3])
  ratio_mixed, authentic_mixed = nearest.nearest_real(mixed, real)
  assert ratio_mixed < 0.9 and authentic_mixed == pytest.approx(
    authentic / 2, abs=0.05
  )
  assert nearest.nearest_real(real, real) == (0.0, 0.0)


def test_duplicates_are_no_measure():
  x = np.repeat(np.random.default_rng(2).normal(size=(20, 2)), 3, axis=0)
  assert nearest.nearest_real(x + 1, x) == ()
  rounding = 1e-7 * np.random.default_rng(3).normal(size=x.shape)
  assert nearest.nearest_real(x + 1, x + rounding) == ()
  with pytest.raises(errors.UserError, match="there are 1"):
    nearest.nearest_real(x[:1], x)
