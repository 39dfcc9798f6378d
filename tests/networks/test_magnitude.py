"""Magnitude-preserving operations preserve magnitude; weights stay put."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.networks import layers, magnitude


def rms(x, axis=None):
  return np.sqrt(np.mean(np.square(np.asarray(x, np.float64)), axis))


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


X = normal(200, 16, 16, 8)


def on_sphere(*shape):
  return magnitude.normalize_weights({"weight": normal(*shape, seed=2)})


def test_silu():
  np.testing.assert_allclose(rms(magnitude.silu(X)), 1, rtol=0.01)


@pytest.mark.parametrize("balance", [0.3, 0.5])
def test_add(balance):
  other = normal(*X.shape, seed=1)
  total = magnitude.add(X, other, balance)
  np.testing.assert_allclose(rms(total), 1, rtol=0.01)
  share = np.mean(total * other) / np.mean(total * X)
  np.testing.assert_allclose(share, balance / (1 - balance), rtol=0.02)


@pytest.mark.parametrize("balance", [0.3, 0.5])
def test_concatenate(balance):
  a, b = X[..., :2], X[..., 2:]
  both = magnitude.concatenate(a, b, balance)
  assert both.shape == X.shape
  np.testing.assert_allclose(rms(both), 1, rtol=0.01)
  # The parts contribute by the balance, not by their numbers of channels.
  norm = lambda x: rms(x) * x.shape[-1] ** 0.5
  share = norm(both[..., 2:]) / norm(both[..., :2])
  np.testing.assert_allclose(share, balance / (1 - balance), rtol=0.02)


@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3)])
def test_linear(kernel):
  # The filters are random but their magnitude is not; 256 of them average out
  # how the input's sample covariance differs from the identity.
  layer = layers.Linear(256, kernel)
  weights = on_sphere(*kernel, 8, 256)
  y = layer.apply({"params": weights}, X[:20])
  if kernel == (3, 3):
    y = y[:, 1:-1, 1:-1]  # zeros come in at the border
  np.testing.assert_allclose(rms(y), 1, rtol=0.01)
  np.testing.assert_allclose(rms(y, (0, 1, 2)), 1, rtol=0.08)


def test_embeddings():
  t = jnp.linspace(0.0, 1.57, 50)
  features = layers.positional_features(t, 16)
  np.testing.assert_allclose(rms(features, -1), 1, rtol=1e-6)
  fourier = layers.FourierFeatures(4096)
  variables = fourier.init(jax.random.key(0), t)
  np.testing.assert_allclose(rms(fourier.apply(variables, t)), 1, rtol=0.02)
  label = layers.one_hot_label(jnp.arange(10), 10)
  np.testing.assert_allclose(rms(label, -1), 1, rtol=1e-6)


def test_normalize():
  y = magnitude.normalize(37.0 * X, axis=(1, 2))
  np.testing.assert_allclose(rms(y, (1, 2)), 1, rtol=1e-4)
  np.testing.assert_allclose(rms(magnitude.pixel_norm(X), -1), 1, rtol=1e-2)
  # bfloat16 in and out, float32 statistics: 2^-9 of rounding is all it costs.
  low = magnitude.pixel_norm(X.astype(jnp.bfloat16))
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(rms(low, -1), 1, rtol=1e-2)


def test_a_zero_pixel_has_a_finite_derivative():
  x = X[:1].at[0, 3, 3].set(0.0)
  y, dy = jax.jvp(magnitude.pixel_norm, (x,), (jnp.ones_like(x),))
  assert np.isfinite(y).all() and np.isfinite(dy).all()
  np.testing.assert_array_equal(y[0, 3, 3], 0)
  gradient = jax.grad(lambda x: magnitude.pixel_norm(x).sum())(x)
  assert np.isfinite(gradient).all()


def params_tree(dtype):
  rng = np.random.default_rng(3)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  return {
    "conv": {"weight": 3 * draw(3, 3, 4, 5)},
    "dense": {"weight": draw(6, 7)},
    "gain": draw(),
    "head": {"kernel": draw(6, 1), "bias": draw(1)},
  }


def test_normalize_weights_touches_weights_only():
  params = params_tree(jnp.float32)
  once = magnitude.normalize_weights(params)
  for name in ("conv", "dense"):
    w = once[name]["weight"]
    filters = rms(w, tuple(range(w.ndim - 1)))
    np.testing.assert_allclose(filters, 1, rtol=1e-6)
    # Directions stay.
    ratio = np.asarray(w / params[name]["weight"])
    spread = np.ptp(ratio, axis=tuple(range(w.ndim - 1)))
    np.testing.assert_allclose(spread, 0, atol=1e-6)
  for name in ("gain", "head"):
    same = jax.tree.map(np.array_equal, once[name], params[name])
    assert all(jax.tree.leaves(same))
  twice = magnitude.normalize_weights(once)
  chex.assert_trees_all_close(once, twice, rtol=1e-6)


def test_projected_gradients_are_those_through_a_normalisation():
  with jax.enable_x64(True):
    params = magnitude.normalize_weights(params_tree(jnp.float64))
    target = params_tree(jnp.float64)

    def loss(params):
      terms = jax.tree.map(lambda p, q: jnp.sum((p - q) ** 3), params, target)
      return sum(jax.tree.leaves(terms))

    @jax.jit
    def both(params):
      gradient = jax.grad(loss)(params)
      through = jax.grad(lambda p: loss(magnitude.normalize_weights(p)))
      return magnitude.project_gradients(gradient, params), through(params)

    projected, through = both(params)
    chex.assert_trees_all_close(projected, through, rtol=1e-10, atol=1e-11)
