"""Adaptive weighting and the sums that runs report."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from scm_jax.objectives import diagnostics, weighting

ERROR = np.array([1e-3, 0.5, 7.0])


def test_the_optimum_is_the_inverse_error():
  valid = jnp.ones(3, bool)
  total = lambda w: weighting.weigh(ERROR, w, valid)[0]
  optimum = -jnp.log(jnp.asarray(ERROR))
  np.testing.assert_allclose(jax.grad(total)(optimum), 0, atol=1e-14)
  # Too much weight is pulled down, too little up.
  assert np.all(jax.grad(total)(optimum + 0.1) > 0)
  assert np.all(jax.grad(total)(optimum - 0.1) < 0)


def test_masked_samples_do_not_dilute():
  w = jnp.array([0.1, 0.2, 0.3])
  valid = jnp.array([True, False, True])
  broken = jnp.asarray(ERROR).at[1].set(jnp.nan)
  total, per_sample = weighting.weigh(broken, w, valid)
  expected = np.exp(w) * ERROR - w
  np.testing.assert_allclose(total, (expected[0] + expected[2]) / 2)
  np.testing.assert_allclose(per_sample[::2], expected[::2])
  none, _ = weighting.weigh(broken, w, jnp.zeros(3, bool))
  assert none == 0


def test_by_time():
  rng = np.random.default_rng(0)
  t = rng.uniform(0, math.pi / 2, 100)
  t[:2] = 0.0, math.pi / 2
  valid = rng.uniform(size=100) < 0.8
  a = np.where(valid, rng.normal(size=100), np.nan)
  result = diagnostics.by_time(jnp.asarray(t), jnp.asarray(valid), a=a)
  edges = np.linspace(0, math.pi / 2, diagnostics.TIME_BINS + 1)
  counts, _ = np.histogram(t[valid], edges)
  sums, _ = np.histogram(t[valid], edges, weights=a[valid])
  np.testing.assert_allclose(result["count"], counts)
  np.testing.assert_allclose(result["a"], sums, rtol=1e-5)


def test_finite_and_select():
  x = jnp.ones((3, 2, 2)).at[1, 0, 0].set(jnp.inf)
  y = jnp.ones((3, 4)).at[2, 3].set(jnp.nan)
  valid = diagnostics.finite(x, y)
  np.testing.assert_array_equal(valid, [True, False, False])
  np.testing.assert_array_equal(
    diagnostics.select(valid, y), [[1] * 4, [0] * 4, [0] * 4]
  )
  np.testing.assert_allclose(diagnostics.norms(x[:1]), 2)
