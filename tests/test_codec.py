"""Pixels survive the way to the network's data and back."""

import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.codec import PixelCodec

PIXELS = np.arange(256, dtype=np.uint8)


@pytest.mark.parametrize(
  ("mean", "std", "channels"),
  [(-0.39, 0.75, 1), ((0.1, -0.7, 0.9), (0.5, 0.02, 2.0), 3)],
)
def test_every_pixel_value_survives(mean, std, channels):
  codec = PixelCodec(mean, std, 0.5)
  images = np.broadcast_to(PIXELS.reshape(4, 8, 8, 1), (4, 8, 8, channels))
  x0 = codec.encode(jnp.asarray(images))
  assert x0.dtype == jnp.float32
  decoded = codec.decode(x0)
  assert decoded.dtype == jnp.uint8
  np.testing.assert_array_equal(decoded, images)


def test_encoding_standardises():
  images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 2), np.uint8)
  images[..., 1] //= 3
  scaled = images / 127.5 - 1
  mean, std = (tuple(f(scaled, (0, 1, 2))) for f in (np.mean, np.std))
  x0 = np.asarray(PixelCodec(mean, std, 0.5).encode(jnp.asarray(images)))
  np.testing.assert_allclose(x0.mean((0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(x0.std((0, 1, 2)), 0.5, rtol=1e-5)


def test_decoding_rounds_and_clips():
  codec = PixelCodec(0.0, 1.0, 1.0)
  level = 1 / 127.5
  x0 = jnp.array([-3.0, 3.0, 0.4 * level, 0.6 * level])
  np.testing.assert_array_equal(codec.decode(x0), [0, 255, 128, 128])
  x0 = jnp.array([0.49, 0.51]) * level + codec.encode(jnp.uint8(10))
  np.testing.assert_array_equal(codec.decode(x0), [10, 11])
