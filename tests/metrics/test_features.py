"""Extractors: pixels and the classifier."""

import dataclasses

import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import classifier, extractors, features


def test_small_images_are_taken_pixel_by_pixel():
  images = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), np.uint8)
  extractor = features.PixelExtractor((8, 6, 3))
  found = features.extract(extractor, images)
  assert extractor.dim == 8 * 6 * 3
  np.testing.assert_allclose(
    found, images.reshape(3, -1) / 127.5 - 1, atol=1e-6
  )
  assert np.abs(found).max() < 1 + 1e-6


def test_large_images_are_averaged_in_blocks():
  images = np.random.default_rng(1).integers(0, 256, (2, 32, 16, 1), np.uint8)
  extractor = features.PixelExtractor((32, 16, 1))
  blocks = images.reshape(2, 8, 4, 8, 2).mean(axis=(2, 4))
  np.testing.assert_allclose(
    features.extract(extractor, images),
    blocks.reshape(2, 64) / 127.5 - 1,
    atol=1e-6,
  )


@pytest.mark.parametrize("size", [9, 28, 31])
def test_sizes_that_do_not_divide_keep_the_mean(size):
  shape = (4, size, size, 1)
  images = np.random.default_rng(size).integers(0, 256, shape, np.uint8)
  extractor = features.PixelExtractor((size, size, 1))
  found = features.extract(extractor, images)
  assert found.shape == (4, extractor.dim) == (4, 64)
  np.testing.assert_allclose(
    found.mean(axis=1), images.mean(axis=(1, 2, 3)) / 127.5 - 1, atol=1e-6
  )


def test_channels_stay_apart():
  images = np.zeros((1, 16, 16, 3), np.uint8)
  images[..., 1] = 255
  found = features.extract(features.PixelExtractor((16, 16, 3)), images)
  expected = np.broadcast_to([-1, 1, -1], (8, 8, 3))
  np.testing.assert_allclose(found.reshape(8, 8, 3), expected, atol=1e-6)


def test_shapes_that_differ_are_an_error():
  extractor = features.PixelExtractor((8, 8, 1))
  with pytest.raises(errors.UserError, match=r"\[8, 8, 3\] cannot be compared"):
    features.extract(extractor, np.zeros((2, 8, 8, 3), np.uint8))


def test_any_number_of_images_at_once(digits):
  images = digits[0][:50]
  extractor = features.PixelExtractor((8, 8, 1))
  np.testing.assert_array_equal(
    features.extract(extractor, images, size=16),
    features.extract(extractor, images),
  )


def test_classifiers_give_logits_too(digits, trained):
  images, labels = digits[0][:50], digits[1][:50]
  extractor = features.ClassifierExtractor(trained)
  found = extractor.apply(extractor.params, images)
  assert (np.argmax(found["logits"], axis=1) == labels).mean() > 0.9
  np.testing.assert_allclose(
    found["features"], trained.features(images), rtol=1e-4, atol=1e-4
  )


def test_fingerprints_follow_parameters_and_settings(trained):
  mark = features.fingerprint
  small, large = (features.PixelExtractor((n, n, 1)) for n in (8, 16))
  learnt = features.ClassifierExtractor(trained)
  other = dataclasses.replace(trained, scale=trained.scale * 1.5)
  marks = {mark(e) for e in (small, large, learnt)}
  assert len(marks | {mark(features.ClassifierExtractor(other))}) == 4
  assert mark(features.ClassifierExtractor(trained)) == mark(learnt)


def test_extractors_by_name(digits, tmp_path):
  images, labels = digits[0][:60], digits[1][:60]
  pixels, learnt = extractors.make(
    ["pixels", "classifier"],
    (8, 8, 1),
    lambda: (images, labels),
    weights={},
    cache_dir=tmp_path,
    settings=classifier.Settings(steps=2, channels=4, features=5),
  )
  assert (pixels.name, pixels.dim) == ("pixels", 64)
  assert (learnt.name, learnt.dim) == ("classifier", 5)
  for extractor in (pixels, learnt):
    found = features.extract(extractor, images)
    assert found.shape == (60, extractor.dim)


@pytest.mark.parametrize(
  "names, weights, said",
  [
    (["pixel"], {}, "'pixel'; did you mean 'pixels'"),
    ([], {}, "no features; choose from classifier, pixels"),
    (["inception"], {}, "need the published network's weights: --weights=ince"),
    (["pixels"], {"dinov2": "f"}, "--features has no 'dinov2'"),
    (["pixels"], {"dino": "f"}, "'dino'; did you mean 'dinov2'"),
  ],
)
def test_names_and_weights_that_do_not_go_together(names, weights, said):
  with pytest.raises(errors.ConfigError, match=said):
    extractors.check(names, weights)
