"""Extractors: pixels and the classifier."""

import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import classifier, features


def test_small_images_are_taken_pixel_by_pixel():
  images = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), np.uint8)
  extractor = features.PixelExtractor((8, 6, 3))
  found = extractor(images)
  assert extractor.dim == 8 * 6 * 3
  np.testing.assert_allclose(
    found, images.reshape(3, -1) / 127.5 - 1, atol=1e-12
  )
  assert found.min() >= -1 and found.max() <= 1


def test_large_images_are_averaged_in_blocks():
  images = np.random.default_rng(1).integers(0, 256, (2, 32, 16, 1), np.uint8)
  extractor = features.PixelExtractor((32, 16, 1))
  blocks = images.reshape(2, 8, 4, 8, 2).mean(axis=(2, 4))
  np.testing.assert_allclose(
    extractor(images), blocks.reshape(2, 64) / 127.5 - 1, atol=1e-12
  )


@pytest.mark.parametrize("size", [9, 28, 31])
def test_sizes_that_do_not_divide_keep_the_mean(size):
  shape = (4, size, size, 1)
  images = np.random.default_rng(size).integers(0, 256, shape, np.uint8)
  extractor = features.PixelExtractor((size, size, 1))
  found = extractor(images)
  assert found.shape == (4, extractor.dim) == (4, 64)
  np.testing.assert_allclose(
    found.mean(axis=1), images.mean(axis=(1, 2, 3)) / 127.5 - 1, atol=1e-12
  )


def test_channels_stay_apart():
  images = np.zeros((1, 16, 16, 3), np.uint8)
  images[..., 1] = 255
  found = features.PixelExtractor((16, 16, 3))(images).reshape(8, 8, 3)
  np.testing.assert_allclose(found, np.broadcast_to([-1, 1, -1], (8, 8, 3)))


def test_shapes_that_differ_are_an_error():
  extractor = features.PixelExtractor((8, 8, 1))
  with pytest.raises(errors.UserError, match=r"\[8, 8, 3\] cannot be compared"):
    extractor(np.zeros((2, 8, 8, 3), np.uint8))


def test_extractors_by_name(digits, tmp_path):
  images, labels = digits[0][:60], digits[1][:60]
  settings = classifier.Settings(steps=2, channels=4, features=5)
  pixels, learnt = features.make_extractors(
    ["pixels", "classifier"], images, labels, tmp_path, settings
  )
  assert (pixels.name, pixels.dim) == ("pixels", 64)
  assert (learnt.name, learnt.dim) == ("classifier", 5)
  for extractor in (pixels, learnt):
    assert extractor(images).shape == (60, extractor.dim)


def test_unknown_names_and_missing_labels(tmp_path):
  images = np.zeros((4, 8, 8, 1), np.uint8)
  with pytest.raises(errors.ConfigError, match="'pixel': choose from pixels,"):
    features.make_extractors(["pixel"], images, None, tmp_path)
  with pytest.raises(errors.ConfigError, match="dataset with labels"):
    features.make_extractors(["classifier"], images, None, tmp_path)
