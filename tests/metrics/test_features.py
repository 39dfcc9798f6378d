"""Extractors: pixels and the classifier."""

import dataclasses

import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import classifier, extractors
from scm_jax.metrics.classifier import classifier_extractor
from scm_jax.metrics.extractor import Source
from scm_jax.metrics.pixels import pixel_extractor


def test_small_images_are_taken_pixel_by_pixel(extract):
  images = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), np.uint8)
  extractor = pixel_extractor((8, 6, 3))
  found = extract(extractor, images)
  assert extractor.dim == 8 * 6 * 3
  np.testing.assert_allclose(
    found, images.reshape(3, -1) / 127.5 - 1, atol=1e-6
  )
  assert np.abs(found).max() < 1 + 1e-6


def test_large_images_are_averaged_in_blocks(extract):
  images = np.random.default_rng(1).integers(0, 256, (2, 32, 16, 1), np.uint8)
  extractor = pixel_extractor((32, 16, 1))
  blocks = images.reshape(2, 8, 4, 8, 2).mean(axis=(2, 4))
  np.testing.assert_allclose(
    extract(extractor, images),
    blocks.reshape(2, 64) / 127.5 - 1,
    atol=1e-6,
  )


@pytest.mark.parametrize("size", [9, 28, 31])
def test_sizes_that_do_not_divide_keep_the_mean(size, extract):
  shape = (4, size, size, 1)
  images = np.random.default_rng(size).integers(0, 256, shape, np.uint8)
  extractor = pixel_extractor((size, size, 1))
  found = extract(extractor, images)
  assert found.shape == (4, extractor.dim) == (4, 64)
  np.testing.assert_allclose(
    found.mean(axis=1), images.mean(axis=(1, 2, 3)) / 127.5 - 1, atol=1e-6
  )


def test_channels_stay_apart(extract):
  images = np.zeros((1, 16, 16, 3), np.uint8)
  images[..., 1] = 255
  found = extract(pixel_extractor((16, 16, 3)), images)
  expected = np.broadcast_to([-1, 1, -1], (8, 8, 3))
  np.testing.assert_allclose(found.reshape(8, 8, 3), expected, atol=1e-6)


def test_shapes_that_differ_are_an_error(extract):
  extractor = pixel_extractor((8, 8, 1))
  with pytest.raises(errors.UserError, match=r"\[8, 8, 3\] cannot be compared"):
    extract(extractor, np.zeros((2, 8, 8, 3), np.uint8))


def test_extractors_say_what_they_give(digits, hardly_trained):
  for extractor in (
    classifier_extractor(hardly_trained),
    pixel_extractor((8, 8, 1)),
  ):
    found = extractor.apply(extractor.params, digits[0][:5])
    assert found.keys() == set(extractor.outputs)
    assert found["features"].shape == (5, extractor.dim)


def test_fingerprints_follow_parameters_and_settings(hardly_trained):
  trained = hardly_trained
  small, large = (pixel_extractor((n, n, 1)) for n in (8, 16))
  learnt = classifier_extractor(hardly_trained)
  other = dataclasses.replace(trained, scale=trained.scale * 1.5)
  changed = classifier_extractor(other)
  marks = {e.fingerprint() for e in (small, large, learnt, changed)}
  assert len(marks) == 4
  assert classifier_extractor(trained).fingerprint() == learnt.fingerprint()


def test_extractors_by_name(digits, tmp_path, monkeypatch, extract):
  settings = classifier.Settings(steps=2, channels=4, features=5)
  labelled = digits[0][:60], digits[1][:60]
  source = Source((8, 8, 1), lambda: labelled, {}, tmp_path)
  with monkeypatch.context() as patch:
    quick = classifier.train(*labelled, settings)
    patch.setattr(classifier, "train", lambda *args: quick)
    pixels, learnt = extractors.make(["pixels", "classifier"], source)
  assert (pixels.name, pixels.dim) == ("pixels", 64)
  assert (learnt.name, learnt.dim) == ("classifier", 5)
  for extractor in (pixels, learnt):
    assert extract(extractor, labelled[0]).shape == (60, extractor.dim)


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
