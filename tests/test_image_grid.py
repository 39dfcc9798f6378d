"""Geometry of image grids, and PNG files."""

import numpy as np
import pytest
from PIL import Image

from scm_jax import errors, image_grid


def _numbered(count, height, width, channels=1):
  values = np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None]
  return np.broadcast_to(values, (count, height, width, channels))


def test_images_run_left_to_right_then_down():
  image = image_grid.image_grid(_numbered(5, 4, 6), 3, min_size=1, gap=2)
  assert image.shape == (2 * (4 + 2) + 2, 3 * (6 + 2) + 2, 1)
  assert image.dtype == np.uint8
  for index in range(5):
    top, left = 2 + index // 3 * 6, 2 + index % 3 * 8
    assert (image[top : top + 4, left : left + 6] == index + 1).all()
  assert (image[:2] == 255).all()
  assert (image[:, :2] == 255).all()
  assert (image[8:12, 18:24] == 255).all()  # the place of a sixth image
  assert np.sum(image != 255) == 5 * 24


def test_small_images_are_enlarged_by_whole_factors():
  images = np.random.default_rng(0).integers(0, 255, (1, 8, 8, 3), np.uint8)
  image = image_grid.image_grid(images, 1, min_size=60, gap=0)
  assert image.shape == (64, 64, 3)
  np.testing.assert_array_equal(image[::8, ::8], images[0])
  np.testing.assert_array_equal(image[7::8, 7::8], images[0])


def test_other_channels_are_side_by_side():
  images = np.random.default_rng(0).integers(0, 255, (3, 4, 5, 2), np.uint8)
  image = image_grid.image_grid(images, 3, min_size=1, gap=0)
  assert image.shape == (4, 3 * 2 * 5, 1)
  for number, drawn in enumerate(np.split(image[..., 0], 3, axis=1)):
    expected = [images[number, ..., channel] for channel in range(2)]
    np.testing.assert_array_equal(drawn, np.concatenate(expected, axis=1))


def test_large_images_are_left_alone():
  images = _numbered(1, 100, 70)
  np.testing.assert_array_equal(
    image_grid.image_grid(images, 1, gap=0), images[0]
  )


@pytest.mark.parametrize("channels", [1, 3])
def test_png_holds_the_same_pixels(tmp_path, channels):
  shape = (5, 7, channels)
  image = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
  path = image_grid.save_png(tmp_path / "new" / "a.png", image)
  with Image.open(path) as found:
    assert found.mode == ("L" if channels == 1 else "RGB")
    np.testing.assert_array_equal(np.array(found).reshape(shape), image)


@pytest.mark.parametrize(
  "images",
  [
    np.zeros((2, 8, 8, 1), np.float32),
    np.zeros((2, 8, 8), np.uint8),
    np.zeros((0, 8, 8, 1), np.uint8),
  ],
)
def test_other_arrays_are_one_line_errors(images):
  with pytest.raises(errors.UserError, match=r"must be uint8 \[N, H, W, C\]"):
    image_grid.image_grid(images, 2)


def test_no_columns_is_an_error():
  with pytest.raises(ValueError, match="columns"):
    image_grid.image_grid(_numbered(1, 2, 2), 0)
