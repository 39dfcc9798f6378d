"""Scores of images as a whole, and the reference's floor."""

import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import features, frechet, scores

_METRICS = {"fd", "kid", "kid_sd", "precision", "recall"}


class _Mean:
  """An extractor of another kind: the mean grey of each row of pixels."""

  name = "rows"
  dim = 8

  def __call__(self, images):
    return images.astype(np.float32).mean(axis=(2, 3)) / 255


@pytest.fixture(scope="module")
def extractors():
  return [features.PixelExtractor((8, 8, 1)), _Mean()]


def test_perfect_and_noisy_images(digits, extractors):
  images = digits[0][:400]
  rng = np.random.default_rng(0)
  noisy = np.clip(images + rng.normal(0, 60, images.shape), 0, 255)
  same = scores.score(images, images, extractors, subset_size=100)
  worse = scores.score(
    noisy.astype(np.uint8), images, extractors, subset_size=100
  )
  assert set(same) == _METRICS | {"num", "num_reference"}
  assert (same["num"], same["num_reference"]) == (400, 400)
  for name in ("pixels", "rows"):
    assert same["fd"][name] < 1e-6 < worse["fd"][name]
    assert same["kid"][name] < worse["kid"][name]
    assert (same["precision"][name], same["recall"][name]) == (1.0, 1.0)
  assert worse["precision"]["pixels"] < 0.9


def test_scores_are_plain_numbers_of_the_parts(digits, extractors):
  images, reference = digits[0][:100], digits[0][100:250]
  found = scores.score(images, reference, extractors)
  pixels = extractors[0]
  assert found["fd"]["pixels"] == frechet.frechet_distance(
    frechet.feature_stats(pixels(images)),
    frechet.feature_stats(pixels(reference)),
  )
  assert (found["num"], found["num_reference"]) == (100, 150)
  for metric in _METRICS:
    assert all(type(value) is float for value in found[metric].values())


def test_reference_features_may_be_extracted_once(digits, extractors):
  images, reference = digits[0][:100], digits[0][100:250]
  extracted = scores.extract(reference, extractors)
  assert scores.score(images, extracted, extractors) == scores.score(
    images, reference, extractors
  )


def test_floor_is_small_reproducible_and_says_its_sizes(digits, extractors):
  images, labels = digits
  floor = scores.reference_floor(images, extractors, repeats=2)
  assert floor == scores.reference_floor(
    scores.extract(images, extractors), extractors, repeats=2
  )
  assert (floor["num"], floor["num_reference"]) == (898, 898)
  assert (floor["repeats"], floor["seed"]) == (2, 0)
  assert set(floor) >= _METRICS | {"fd_sd"}
  assert floor["precision"]["pixels"] > 0.8
  assert floor["fd_sd"]["pixels"] > 0
  # Half of the classes is no random half.
  biased = scores.score(images[labels < 5], images[labels >= 5], extractors)
  assert biased["fd"]["pixels"] > 5 * floor["fd"]["pixels"]
  assert floor != scores.reference_floor(images, extractors, repeats=2, seed=1)


def test_too_few_images_name_the_features(digits, extractors):
  images = digits[0]
  with pytest.raises(errors.UserError, match="'pixels': 16 samples .* 65"):
    scores.score(images[:16], images, extractors)
  found = scores.score(images[:16], images, extractors, allow_few=True)
  assert found["fd"]["pixels"] > 0


def test_images_of_another_shape_are_an_error(digits, extractors):
  with pytest.raises(errors.UserError, match="cannot be compared"):
    scores.score(np.zeros((99, 9, 8, 1), np.uint8), digits[0], extractors)
