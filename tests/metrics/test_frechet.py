"""Fréchet distance against closed forms and scipy; merging statistics."""

import functools

import numpy as np
import pytest
from scipy import linalg

from scm_jax import errors
from scm_jax.metrics import frechet


def _stats(mean, covariance, n=10_000):
  return frechet.Moments(
    n, np.asarray(mean, float), np.asarray(covariance, float) * (n - 1)
  )


def _random_covariance(rng, dim, rank=None):
  factor = rng.normal(size=(dim, rank or 2 * dim))
  return factor @ factor.T / dim


def test_statistics_are_mean_and_covariance():
  x = np.random.default_rng(0).normal(size=(50, 4)) + 1e6
  stats = frechet.feature_stats(x)
  assert stats.n == 50
  np.testing.assert_allclose(stats.mean, x.mean(0), rtol=1e-14)
  np.testing.assert_allclose(stats.covariance, np.cov(x.T), rtol=1e-9)


@pytest.mark.parametrize("cuts", [[1], [40], [1, 2, 3], [20, 21, 70, 99]])
def test_merged_parts_equal_the_whole(cuts):
  # A mean far from zero: summed squares would lose all digits here.
  x = np.random.default_rng(1).normal(size=(100, 5)) * [1, 2, 3, 4, 5] + 1e7
  parts = map(frechet.feature_stats, np.split(x, cuts))
  merged = functools.reduce(frechet.merge_stats, parts)
  whole = frechet.feature_stats(x)
  assert merged.n == whole.n
  np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
  np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-7, atol=1e-6)


def test_merging_is_symmetric():
  rng = np.random.default_rng(2)
  a = frechet.feature_stats(rng.normal(size=(7, 3)))
  b = frechet.feature_stats(rng.normal(size=(9, 3)) + 4)
  ab, ba = frechet.merge_stats(a, b), frechet.merge_stats(b, a)
  np.testing.assert_allclose(ab.mean, ba.mean, rtol=1e-13)
  np.testing.assert_allclose(ab.m2, ba.m2, rtol=1e-13)


def test_diagonal_gaussians_have_a_closed_form():
  rng = np.random.default_rng(3)
  mean_a, mean_b = rng.normal(size=(2, 6))
  sd_a, sd_b = rng.uniform(0.1, 3, size=(2, 6))
  found = frechet.frechet_distance(
    _stats(mean_a, np.diag(sd_a**2)), _stats(mean_b, np.diag(sd_b**2))
  )
  expected = np.sum((mean_a - mean_b) ** 2) + np.sum((sd_a - sd_b) ** 2)
  assert found == pytest.approx(expected, rel=1e-12)


def test_mean_shift_alone_is_its_squared_length():
  covariance = _random_covariance(np.random.default_rng(4), 8)
  shift = np.arange(8.0)
  found = frechet.frechet_distance(
    _stats(np.zeros(8), covariance), _stats(shift, covariance)
  )
  assert found == pytest.approx(np.sum(shift**2), rel=1e-12)


@pytest.mark.parametrize("dim", [2, 16, 48])
def test_agrees_with_the_matrix_square_root(dim):
  rng = np.random.default_rng(dim)
  a, b = _random_covariance(rng, dim), _random_covariance(rng, dim)
  mean = rng.normal(size=dim)
  root = linalg.sqrtm(a @ b)
  expected = np.sum(mean**2) + np.trace(a + b - 2 * np.real(root))
  there = frechet.frechet_distance(_stats(mean, a), _stats(0 * mean, b))
  back = frechet.frechet_distance(_stats(0 * mean, b), _stats(mean, a))
  assert there == pytest.approx(expected, rel=1e-9)
  assert back == pytest.approx(there, rel=1e-12)


def test_identical_statistics_are_at_distance_zero():
  x = np.random.default_rng(5).normal(size=(200, 20)) * 100
  stats = frechet.feature_stats(x)
  assert 0 <= frechet.frechet_distance(stats, stats) < 1e-6


def test_singular_covariances_are_fine():
  # Half the directions carry no data, as pixels that are always black.
  rng = np.random.default_rng(6)
  covariance = _random_covariance(rng, 10, rank=5)
  a, b = _stats(np.zeros(10), covariance), _stats(np.zeros(10), 4 * covariance)
  found = frechet.frechet_distance(a, b)
  # S2 = 4 S1, so that the distance is tr(S1 + 4 S1 - 2 * 2 S1) = tr S1.
  assert found == pytest.approx(np.trace(covariance), rel=1e-9)


def test_point_masses_differ_by_their_means_only():
  zero = np.zeros((3, 3))
  found = frechet.frechet_distance(
    _stats([0, 0, 0], zero), _stats([1, 2, 2], zero)
  )
  assert found == pytest.approx(9.0)


def test_too_few_samples_is_an_error_unless_allowed():
  rng = np.random.default_rng(7)
  a = frechet.feature_stats(rng.normal(size=(8, 8)))
  b = frechet.feature_stats(rng.normal(size=(9, 8)))
  with pytest.raises(errors.UserError, match="8 samples are too few.* 9"):
    frechet.frechet_distance(a, b)
  assert frechet.frechet_distance(b, b) < 1e-6
  assert frechet.frechet_distance(a, b, allow_few=True) > 0


def test_one_sample_has_no_covariance():
  with pytest.raises(errors.UserError, match="at least 2 samples"):
    _ = frechet.feature_stats(np.zeros((1, 2))).covariance


def test_non_finite_features_are_an_error():
  x = np.zeros((5, 2))
  x[3, 1] = np.nan
  with pytest.raises(errors.UserError, match="1 of 5 samples"):
    frechet.feature_stats(x)
