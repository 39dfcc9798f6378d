"""The extrapolated distance on normal data, whose distance is known."""

import numpy as np
import pytest

from scm_jax.metrics import frechet, scores
from scm_jax.metrics.accumulator import summarize_features
from scm_jax.metrics.frechet_infinity import extrapolate
from scm_jax.metrics.metric import Options

REPEATS = 25


def _moments(mean, sd):
  return frechet.Moments(None, np.asarray(mean, float), np.diag(sd**2))


@pytest.mark.parametrize(
  "dim, count, shift, scale",
  [(32, 1000, 0.0, 1.0), (32, 1000, 0.2, 0.9), (64, 1000, 0.0, 1.0)],
)
def test_is_unbiased_where_the_plain_distance_is_not(dim, count, shift, scale):
  """And its error is that of repeated measurements."""
  rng = np.random.default_rng(0)
  sd = np.arange(1, dim + 1) ** -0.5
  reference = _moments(np.zeros(dim), sd)
  true = shift**2 + np.sum((sd - scale * sd) ** 2)
  found, plain = [], []
  for repeat in range(REPEATS):
    x = rng.normal(size=(count, dim)) * scale * sd
    x[:, 0] += shift
    found.append(extrapolate(x, reference, Options(seed=repeat)))
    moments = frechet.feature_stats(x)
    plain.append(frechet.frechet_distance(moments, reference))
  values, errors = np.asarray(found).T
  bias, plain_bias = np.mean(values) - true, np.mean(plain) - true
  spread = np.std(values, ddof=1)
  assert plain_bias > 5 * np.std(plain) / REPEATS**0.5
  assert abs(bias) < 0.1 * plain_bias + 3 * spread / REPEATS**0.5
  assert abs(bias) < np.mean(errors) < 0.5 * plain_bias + abs(true)
  assert 0.5 * spread < np.mean(errors) < 3 * spread
  assert np.mean(abs(values - true) < 2 * errors) > 0.8


def test_does_not_depend_on_the_number_of_samples():
  rng = np.random.default_rng(1)
  dim, shift = 8, 0.3
  reference = _moments(np.zeros(dim), np.ones(dim))
  for count in (300, 3000):
    x = rng.normal(size=(count, dim))
    x[:, 0] += shift
    value, error = extrapolate(x, reference, Options())
    assert abs(value - shift**2) < 2.5 * error


def test_exact_where_the_bias_is_none():
  """Copies of few points in all blocks: a distance without noise."""
  points = np.concatenate([np.eye(3), -np.eye(3)])
  x = np.repeat(points, 5000, axis=0)
  reference = frechet.feature_stats(points * 2)
  value, error = extrapolate(x, reference, Options())
  expected = frechet.frechet_distance(frechet.feature_stats(x), reference)
  assert value == pytest.approx(expected, abs=4 * error)
  assert error < 0.02


def test_too_few_samples_have_none():
  rng = np.random.default_rng(2)
  reference = _moments(np.zeros(30), np.ones(30))
  assert not extrapolate(rng.normal(size=(99, 30)), reference, Options())
  assert extrapolate(rng.normal(size=(100, 30)), reference, Options())
  few = {"x": summarize_features(rng.normal(size=(50, 30)))}
  found = scores.score(few, {"x": {"moments": reference}})
  assert found["fd_infinity"] == found["fd_infinity_se"] == {}


def test_floor_is_that_of_infinitely_many_perfect_samples():
  """Their distance to a finite reference, in the mean over references."""
  rng = np.random.default_rng(3)
  dim, count = 8, 600
  perfect = _moments(np.zeros(dim), np.ones(dim))
  floors, distances = [], []
  for _ in range(12):
    real = {"x": summarize_features(rng.normal(size=(count, dim)))}
    floors.append(scores.reference_floor(real, repeats=2)["fd_floor"]["x"])
    moments = real["x"]["moments"]
    distances.append(frechet.frechet_distance(perfect, moments))
  deviation = np.std(np.subtract(floors, distances)) / 12**0.5
  assert np.mean(floors) == pytest.approx(np.mean(distances), abs=3 * deviation)
  assert np.mean(floors) > 3 * np.std(floors) / 12**0.5


def test_floor_needs_the_number_of_real_images(digits):
  features = digits[0][:800, 2:6, 2:6].reshape(800, -1).astype(np.float32)
  real = dict(summarize_features(features))
  floor = scores.reference_floor({"x": real}, repeats=2)
  assert floor["fd_floor"]["x"] == pytest.approx(floor["fd_infinity"]["x"] / 2)
  exact = real["moments"]
  given = frechet.Moments(None, exact.mean, exact.covariance)
  unknown = {"x": {**real, "moments": given}}
  assert scores.reference_floor(unknown, repeats=2)["fd_floor"] == {}
