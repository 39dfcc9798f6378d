"""The weighting head: where it starts and what it can reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.networks import magnitude, weighting

T = jnp.linspace(0.01, 1.56, 16)


def test_starts_at_zero_and_learns_any_constant():
  head = weighting.Weighting()
  variables = head.init(jax.random.key(0), T)
  np.testing.assert_array_equal(head.apply(variables, T), np.zeros(16))
  # Beyond ln D of ImageNet, where a head on the sphere would not reach.
  variables["params"]["linear"]["bias"] += 20.0
  np.testing.assert_allclose(head.apply(variables, T), 20, rtol=1e-6)


@pytest.mark.parametrize("form", ["trigflow", "edm2"])
def test_is_float32_per_sample(form):
  head = weighting.Weighting(form)
  variables = head.init(jax.random.key(0), T)
  assert head.apply(variables, T.astype(jnp.bfloat16)).dtype == jnp.float32
  assert head.apply(variables, T).shape == T.shape


def test_edm2_form_is_minus_the_log_variance():
  head = weighting.Weighting("edm2")
  params = head.init(jax.random.key(1), T)["params"]
  params = magnitude.normalize_weights(params)
  value = head.apply({"params": params}, T)
  fourier, linear = params["fourier"], params["linear"]["weight"]
  angles = T[:, None] * fourier["frequencies"] + fourier["phases"]
  features = 2**0.5 * np.cos(2 * np.pi * angles)
  log_variance = features @ linear[:, 0] / weighting.FEATURES**0.5
  np.testing.assert_allclose(value, -log_variance, atol=1e-5)
