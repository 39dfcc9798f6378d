"""Each resizer against the library that it is named for."""

import jax
import numpy as np
import PIL.Image
import pytest

from scm_jax.metrics import resize

# Growing, shrinking by no whole factor and by one, a side that stays.
SIZES = [(32, 299), (64, 224), (512, 224), (500, 299), (672, 224), (299, 299)]


@pytest.fixture(scope="module")
def draw():
  """`draw(height, width)`: bytes, of which one image is black and white."""

  def images(height, width):
    rng = np.random.default_rng(height * width)
    images = rng.integers(0, 256, (2, height, width, 3), np.uint8)
    return np.stack([images[0], np.where(images[1] > 127, 255, 0)]).astype("u1")

  return images


def torch_resize(images, height, width, **options):
  torch = pytest.importorskip("torch")
  x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
  x = torch.nn.functional.interpolate(x, (height, width), **options)
  return x.permute(0, 2, 3, 1).numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_bilinear_as_tensorflow_1(draw, size, wanted):
  tf = pytest.importorskip("tensorflow")
  images = draw(size, 40)
  expected = tf.raw_ops.ResizeBilinear(
    images=images, size=(wanted, 77), half_pixel_centers=False
  )
  rows = resize.bilinear_tf1(size, wanted)
  found = resize.resize(images, rows, resize.bilinear_tf1(40, 77))
  np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("size", [32, 512])
def test_nvidia_emulates_tensorflow_1_by_an_affine_grid(draw, size):
  torch = pytest.importorskip("torch")
  images = draw(size, size)
  # Shifted by half of an output's and half of an input's pixel.
  shift = 1 / size - 1 / 299
  theta = torch.tensor([[[1, 0, shift], [0, 1, shift]]]).float().expand(2, 2, 3)
  grid = torch.nn.functional.affine_grid(theta, (2, 3, 299, 299), False)
  x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
  sample = torch.nn.functional.grid_sample
  x = sample(x, grid, "bilinear", "border", align_corners=False)
  matrix = resize.bilinear_tf1(size, 299)
  found = resize.resize(images, matrix, matrix)
  np.testing.assert_allclose(found, x.permute(0, 2, 3, 1), atol=0.03)


@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_bilinear_as_torch(draw, size, wanted):
  images = draw(size, 40)
  expected = torch_resize(images, wanted, 77, mode="bilinear")
  rows = resize.bilinear_torch(size, wanted)
  found = resize.resize(images, rows, resize.bilinear_torch(40, 77))
  np.testing.assert_allclose(found, expected, atol=0.02)


def test_tensorflow_and_torch_differ_by_more_than_rounding(draw):
  images = draw(64, 64)
  matrices = resize.bilinear_tf1(64, 299), resize.bilinear_torch(64, 299)
  ours = [np.asarray(resize.resize(images, m, m)) for m in matrices]
  assert np.abs(ours[0] - ours[1]).mean() > 10


@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_bicubic_with_antialias_as_torch(draw, size, wanted):
  images = draw(size, 40)
  options = {"mode": "bicubic", "antialias": True}
  expected = torch_resize(images, wanted, 77, **options)
  rows = resize.bicubic_antialiased(size, wanted)
  found = resize.resize(images, rows, resize.bicubic_antialiased(40, 77))
  np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize(("size", "wanted"), [(37, 16), (7, 16)])
def test_bicubic_by_a_scale_factor_as_torch(size, wanted):
  torch = pytest.importorskip("torch")
  grid = np.random.default_rng(size).normal(size=(1, 3, size, size))
  factor = (wanted + 0.1) / size
  expected = torch.nn.functional.interpolate(
    torch.from_numpy(grid), scale_factor=(factor, factor), mode="bicubic"
  )
  matrix = resize.bicubic_torch(size, wanted, 1 / factor)
  found = resize.resize(grid.transpose(0, 2, 3, 1), matrix, matrix)
  np.testing.assert_allclose(
    np.moveaxis(found, -1, 1), expected.numpy(), atol=1e-5
  )


# Where the height shrinks more than the width, Pillow 13 begins with the rows.
@pytest.mark.parametrize(
  "sizes",
  [(32, 32, 224, 224), (512, 512, 224, 224), (96, 672, 96, 224), (7, 5, 9, 2)],
)
def test_bicubic_as_pillow_to_the_last_bit(draw, sizes):
  height, width, *wanted = sizes
  images = draw(height, width)
  bicubic = PIL.Image.Resampling.BICUBIC
  expected = [
    PIL.Image.fromarray(image).resize(wanted[::-1], bicubic) for image in images
  ]
  found = jax.jit(resize.bicubic_pillow, static_argnums=(1, 2))(images, *wanted)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, np.stack(expected))
