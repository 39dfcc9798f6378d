"""Scores of images as a whole, and the reference's floor."""

import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import features, frechet, scores, streaming
from scm_jax.metrics.accumulator import Collected

_ALL = {*scores.METRICS, "warnings", "num_kept", "num", "num_reference"}


class _Rows:
  """An extractor of another kind: the mean grey of each row of pixels."""

  name = "rows"
  dim = 8
  params = ()

  def apply(self, params, images):
    return {"features": images.astype(np.float32).mean(axis=(2, 3)) / 255}


@pytest.fixture(scope="module")
def collect():
  """`collect(images)`: statistics of pixels and rows."""
  extractors = [features.PixelExtractor((8, 8, 1)), _Rows()]
  extraction = streaming.Extraction(extractors)
  return lambda images: streaming.collect_images(images, extraction, size=128)


def test_perfect_and_noisy_images(digits, collect):
  images = digits[0][:400]
  rng = np.random.default_rng(0)
  noisy = np.clip(images + rng.normal(0, 60, images.shape), 0, 255)
  real, worse = collect(images), collect(noisy.astype(np.uint8))
  same = scores.score(real, real, subset_size=100)
  worse = scores.score(worse, real, subset_size=100)
  assert set(same) == _ALL
  assert (same["num"], same["num_reference"]) == (400, 400)
  for name in ("pixels", "rows"):
    assert same["fd"][name] < 1e-6 < worse["fd"][name]
    assert same["kid"][name] < worse["kid"][name]
    assert (same["precision"][name], same["recall"][name]) == (1.0, 1.0)
    assert same["coverage"][name] == 1.0 and same["density"][name] > 0.99
  assert worse["precision"]["pixels"] < 0.9
  assert worse["density"]["pixels"] < 0.5


def test_scores_are_plain_numbers_of_the_parts(digits, collect):
  images, reference = digits[0][:100], digits[0][100:250]
  found = scores.score(collect(images), collect(reference))
  pixels = features.PixelExtractor((8, 8, 1))
  assert found["fd"]["pixels"] == pytest.approx(
    frechet.frechet_distance(
      frechet.feature_stats(features.extract(pixels, images)),
      frechet.feature_stats(features.extract(pixels, reference)),
    ),
    rel=1e-9,
  )
  assert (found["num"], found["num_reference"]) == (100, 150)
  assert found["num_kept"] == [100, 150]
  for metric in scores.METRICS:
    assert all(type(value) is float for value in found[metric].values())


def test_moments_alone_give_a_frechet_distance_alone(digits, collect):
  mine, theirs = collect(digits[0][:400]), collect(digits[0][400:900])
  moments = {
    name: Collected(frechet.Gaussian(c.moments.mean, c.moments.covariance))
    for name, c in theirs.items()
  }
  found, whole = scores.score(mine, moments), scores.score(mine, theirs)
  assert found["fd"] == pytest.approx(whole["fd"], rel=1e-9)
  assert found["num_reference"] is None
  assert found["kid"] == found["precision"] == found["coverage"] == {}


def test_floor_is_small_reproducible_and_says_its_sizes(digits, collect):
  images, labels = digits
  real = collect(images)
  floor = scores.reference_floor(real, repeats=2)
  assert floor == scores.reference_floor(real, repeats=2)
  assert (floor["num"], floor["num_reference"]) == (898, 898)
  assert (floor["repeats"], floor["seed"]) == (2, 0)
  assert set(floor) >= {*scores.METRICS, "fd_sd"}
  assert floor["precision"]["pixels"] > 0.8
  assert floor["fd_sd"]["pixels"] > 0
  # Half of the classes is no random half.
  biased = scores.score(
    collect(images[labels < 5]), collect(images[labels > 4])
  )
  assert biased["fd"]["pixels"] > 5 * floor["fd"]["pixels"]
  assert floor != scores.reference_floor(real, repeats=2, seed=1)


def test_too_few_images_name_the_features(digits, collect):
  few, real = collect(digits[0][:16]), collect(digits[0])
  with pytest.raises(errors.UserError, match="'pixels': 16 samples .* 65"):
    scores.score(few, real)
  found = scores.score(few, real, allow_few=True)
  assert found["fd"]["pixels"] > 0
  singular, noisy = found["warnings"]
  assert singular.startswith("pixels: 16 samples for 64 features, so the")
  assert "singular" in singular and "noisy" in noisy
  assert scores.score(real, real)["warnings"] == []


def test_images_of_another_shape_are_an_error(collect):
  with pytest.raises(errors.UserError, match="cannot be compared"):
    collect(np.zeros((99, 9, 8, 1), np.uint8))
