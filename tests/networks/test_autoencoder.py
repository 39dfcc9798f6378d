"""The autoencoder's sizes, its distributions, and decoding in groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.networks import autoencoder
from scm_jax.networks.autoencoder import AutoencoderConfig, in_groups

TINY = AutoencoderConfig(channels=(8, 16), blocks=1, groups=4)
ENCODE = jax.jit(autoencoder.build(TINY).encode)


@pytest.fixture(scope="module")
def tiny():
  """Its weights are noise."""
  network = autoencoder.build(TINY)
  shapes = network.shapes
  rng = np.random.default_rng(0)
  draw = lambda leaf: np.float32(0.2 * rng.normal(size=leaf.shape))
  return network, jax.tree.map(draw, shapes)


def test_the_public_weights_count():
  """83.65 million, as those who use Stable Diffusion's autoencoder count."""
  config = AutoencoderConfig()
  shapes = autoencoder.build(config).shapes
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 83_653_863
  assert config.factor == 8


def test_shapes(tiny):
  network, params = tiny
  images = jax.ShapeDtypeStruct((2, 12, 8, 3), jnp.float32)
  mean, std = jax.eval_shape(network.encode, params, images)
  assert mean.shape == std.shape == (2, 6, 4, 4)
  decoded = jax.eval_shape(network.decode, params, mean)
  assert decoded.shape == images.shape and decoded.dtype == jnp.float32


@pytest.mark.parametrize(
  ("log_variance", "expected"), [(-100, -30), (3, 3), (50, 20)]
)
def test_deviations_are_bounded(tiny, log_variance, expected):
  """A layer that says one log-variance everywhere."""
  _, params = tiny
  bias = jnp.array([0.5] * 4 + [float(log_variance)] * 4)
  kernel = jnp.zeros_like(params["quant_conv"]["kernel"])
  params = params | {"quant_conv": {"kernel": kernel, "bias": bias}}
  mean, std = ENCODE(params, jnp.zeros((1, 4, 4, 3)))
  np.testing.assert_array_equal(mean, 0.5)
  np.testing.assert_allclose(std, np.exp(expected / 2), rtol=1e-6)


def test_equal_sizes_share_functions():
  assert autoencoder.build(TINY) is autoencoder.build(
    AutoencoderConfig(channels=(8, 16), blocks=1, groups=4)
  )


@pytest.mark.parametrize(
  ("batch", "size", "largest"),
  [(5, 8, 5), (5, 5, 5), (8, 4, 4), (5, 4, 3), (7, 3, 3), (3, 0, 1)],
)
def test_groups(batch, size, largest):
  seen = []

  def f(x):
    seen.append(x.shape[0])
    return x[..., :1] * 2 + 1

  x = jnp.arange(batch * 6.0).reshape(batch, 3, 2)
  np.testing.assert_array_equal(in_groups(f, x, size), x[..., :1] * 2 + 1)
  assert max(seen) == largest <= max(size, 1)


def test_decoding_in_groups_changes_nothing(tiny, monkeypatch):
  """Neither the images nor, for one size of groups, the memory."""
  network, params = tiny
  latents = jax.random.normal(jax.random.key(1), (5, 3, 3, 4))

  def decode(latents):
    # Anew, because the bound is read when a program is made.
    return jax.jit(lambda *args: network.decode(*args)).lower(params, latents)

  whole = decode(latents).compile()
  monkeypatch.setattr(autoencoder, "PIXELS", 2 * 6 * 6)
  parts = decode(latents).compile()
  np.testing.assert_allclose(
    parts(params, latents), whole(params, latents), rtol=1e-5, atol=1e-6
  )
  more = decode(jnp.zeros((40, 3, 3, 4))).compile()
  temporary = lambda program: program.memory_analysis().temp_size_in_bytes
  grown = temporary(more) - temporary(parts)
  assert grown < 36 * (3 * 6 * 6 + 4 * 3 * 3) * 4 * 2  # images and latents
