"""Embeddings and linear maps."""

import jax
import jax.numpy as jnp
import numpy as np

from scm_jax.networks import layers


def test_patches_are_squares_of_pixels():
  x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
  y = layers.to_patches(x, 2)
  assert y.shape == (2, 2, 3, 12)
  np.testing.assert_array_equal(
    np.sort(y[1, 1, 2]), np.sort(x[1, 2:4, 4:6].ravel())
  )
  np.testing.assert_array_equal(layers.from_patches(y, 2), x)


def test_positional_features_have_bounded_derivatives():
  t = jnp.linspace(0.01, 1.56, 32)
  embed = lambda t: layers.positional_features(t, 16)
  features, slope = jax.jvp(embed, (t,), (jnp.ones_like(t),))
  assert features.dtype == jnp.float32
  # The highest frequency is 1: no feature changes faster than sqrt(2) sin(t).
  assert np.abs(slope).max() <= 2**0.5
  frequencies = np.abs(slope[:, :8]).max(0) / np.abs(slope[:, 0]).max()
  assert frequencies[0] == 1 and frequencies[-1] < 1e-6
  np.testing.assert_allclose(features[:, 0], 2**0.5 * np.cos(t), rtol=1e-6)
  np.testing.assert_allclose(features[:, 8], 2**0.5 * np.sin(t), rtol=1e-6)


def test_fourier_features_are_not_trained():
  t = jnp.array([0.3, -1.0])
  module = layers.FourierFeatures(8)
  variables = module.init(jax.random.key(0), t)
  gradient = jax.grad(lambda v: jnp.sum(module.apply(v, t) ** 3))(variables)
  assert all(not np.any(g) for g in jax.tree.leaves(gradient))
  slope = jax.grad(lambda t: jnp.sum(module.apply(variables, t)))(t)
  assert np.all(slope)


def test_no_label_is_a_zero_row():
  rows = layers.one_hot_label(jnp.array([0, 2, 3]), 3)
  np.testing.assert_allclose(
    rows, [[3**0.5, 0, 0], [0, 0, 3**0.5], [0, 0, 0]], rtol=1e-6
  )


def test_linear_computes_in_its_dtype():
  layer = layers.Linear(4, (3, 3), jnp.bfloat16)
  x = jnp.ones((1, 4, 4, 2))
  variables = layer.init(jax.random.key(0), x)
  assert variables["params"]["weight"].dtype == jnp.float32
  y = layer.apply(variables, x)
  assert y.dtype == jnp.bfloat16
  exact = layers.Linear(4, (3, 3)).apply(variables, x)
  np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.05)
  # A 1x1 kernel is a dense layer over channels.
  w = variables["params"]["weight"][:1, :1]
  pointwise = layers.Linear(4, (1, 1)).apply({"params": {"weight": w}}, x)
  np.testing.assert_allclose(pointwise, x @ w[0, 0] / 2**0.5, rtol=1e-6)
