"""Pixels survive the way to the network's data and back; latents are drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.codec import PREVIEW, LatentCodec, PixelCodec, preview
from scm_jax.networks.autoencoder import AutoencoderConfig, build

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


LATENTS = LatentCodec(
  mean=(1.56, -0.695, 0.483, 0.729), std=(5.27, 5.91, 4.21, 4.31), sigma_d=0.5
)


def stored(mean, std, shape=(4000, 1, 1)) -> jax.Array:
  """float16 means and deviations, the same at every place."""
  return jnp.broadcast_to(jnp.array([*mean, *std], jnp.float16), (*shape, 8))


def test_latents_are_drawn_afresh_and_standardised():
  mean, std = np.array([2.0, -1.0, 0.5, 3.0]), np.array([0.5, 1.0, 2.0, 0.25])
  x0 = LATENTS.encode(stored(mean, std), jax.random.key(0))
  assert x0.shape == (4000, 1, 1, 4) and x0.dtype == jnp.float32
  scale = 0.5 / np.array(LATENTS.std)
  expected = (mean - np.array(LATENTS.mean)) * scale
  np.testing.assert_allclose(
    (x0.mean((0, 1, 2)) - expected) / (std * scale), 0, atol=4 / 4000**0.5
  )
  np.testing.assert_allclose(x0.std((0, 1, 2)), std * scale, rtol=0.05)

  same = LATENTS.encode(stored(mean, std), jax.random.key(0))
  other = LATENTS.encode(stored(mean, std), jax.random.key(1))
  np.testing.assert_array_equal(x0, same)
  assert np.all(np.abs(x0 - other).max((0, 1, 2)) > std * scale)


def test_latents_of_the_datasets_statistics_have_the_networks():
  """N(mean, std) over the dataset becomes N(0, sigma_d^2)."""
  rng = np.random.default_rng(0)
  raw = rng.normal(LATENTS.mean, LATENTS.std, (5000, 1, 1, 4))
  moments = jnp.asarray(np.concatenate([raw, np.zeros_like(raw)], -1))
  x0 = LATENTS.encode(moments, jax.random.key(0))
  np.testing.assert_allclose(x0.mean((0, 1, 2)), 0, atol=0.03)
  np.testing.assert_allclose(x0.std((0, 1, 2)), 0.5, rtol=0.05)


@pytest.mark.parametrize("image_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_preview_shows_colours(image_range):
  """Latents whose preview is known, by the inverse of its matrix."""
  codec = dataclasses.replace(LATENTS, image_range=image_range)
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (2, 3, 3, 3))
  low, high = image_range
  # In the middle of each level, because levels are truncated.
  colours = low + (pixels + 0.5) / 255 * (high - low)
  latents = colours @ np.linalg.pinv(np.array(PREVIEW)) / 0.18215
  np.testing.assert_allclose(
    preview(jnp.asarray(latents, jnp.float32)), colours, atol=1e-5
  )
  moments = np.concatenate([latents, np.zeros_like(latents)], -1)
  x0 = codec.encode(jnp.asarray(moments), jax.random.key(0))
  images = codec.decode(x0)
  assert images.dtype == jnp.uint8
  np.testing.assert_array_equal(images, pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 32])
def test_preview_of_other_latents(channels):
  """The first three channels, or one, within three deviations of the mean."""
  mean, std = np.arange(channels) + 1.0, np.arange(channels) + 2.0
  codec = LatentCodec(tuple(mean), tuple(std), 0.5)
  x0 = np.linspace(-1.5, 1.5, 4 * channels).reshape(1, 2, 2, channels)
  images = np.asarray(codec.decode(jnp.asarray(x0, jnp.float32)), int)
  assert images.shape == (1, 2, 2, 3)
  shown = x0[..., :3] if channels > 2 else x0[..., :1]
  wanted = np.broadcast_to((shown / 1.5 + 1) / 2 * 255, images.shape)
  assert np.abs(images - wanted).max() < 1.01  # truncated


@pytest.mark.parametrize("image_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_decoded_latents_are_truncated_and_pixels_rounded(image_range):
  """EDM2 has `clamp(0, 1).mul(255)` for the one, and `+ 128` for the other."""
  low, high = image_range
  shades = np.random.default_rng(0).uniform(-0.2, 1.2, (1, 40, 40, 3))
  shades = np.float32(shades)
  expected = np.uint8(np.clip(shades, 0, 1) * np.float32(255))

  def decoder(params, latents):
    del params, latents
    return low + jnp.asarray(shades) * (high - low)

  network = build(AutoencoderConfig())._replace(decode=decoder)
  codec = dataclasses.replace(
    LATENTS, image_range=image_range, autoencoder=network
  )
  found = np.asarray(codec.decode(jnp.zeros((1, 5, 5, 4))))
  off = found != expected  # where arithmetic crosses a level
  assert off.mean() < (0.001 if low else 1e-9)
  inside = (shades > 0) & (shades < 1)
  wanted = (shades * 255)[inside]
  assert np.mean(wanted - found[inside]) == pytest.approx(0.5, abs=0.02)

  pixels = PixelCodec(0.0, 1.0, 1.0).decode(jnp.asarray(shades * 2 - 1))
  edm2 = np.uint8(np.clip((shades * 2 - 1) * 127.5 + 128, 0, 255))
  assert (np.asarray(pixels) != edm2).mean() < 0.001


def test_the_papers_mean_latent_is_a_middle_grey():
  """The map and the constants are of one autoencoder and one range."""
  grey = preview(jnp.array(LATENTS.mean))
  np.testing.assert_allclose(grey, 0, atol=0.05)


def test_an_autoencoder_takes_the_previews_place():
  """Here one that enlarges; it gets its parameters and unscaled latents."""

  def decoder(params, latents):
    grey = latents[..., :1] * params["gain"]
    return jnp.repeat(grey.repeat(8, axis=1).repeat(8, axis=2), 3, axis=-1)

  autoencoder = build(AutoencoderConfig())._replace(decode=decoder)
  codec = dataclasses.replace(LATENTS, autoencoder=autoencoder)
  moments = stored([0.5, 0, 0, 0], [0, 0, 0, 0], (2, 1, 2))
  x0 = codec.encode(moments, jax.random.key(0))
  images = jax.jit(codec.decode)(x0, {"gain": 1.0})
  assert images.shape == (2, 8, 16, 3)
  np.testing.assert_array_equal(images, 191)  # 0.5 in [-1, 1]
  assert hash(codec) != hash(LATENTS) and codec != LATENTS
