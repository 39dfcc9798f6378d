"""The weighting head: where it starts and what it can reach."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scm_jax import networks, trigflow
from scm_jax.networks import magnitude, weighting

T = jnp.linspace(0.01, 1.56, 16)
T_KEY = jax.random.key(7)


@pytest.mark.parametrize("kind", ("positional", "fourier"))
def test_starts_at_zero_and_learns_any_constant(kind):
  head = weighting.Weighting(kind)
  variables = head.init(jax.random.key(0), T)
  np.testing.assert_array_equal(head.apply(variables, T), np.zeros(16))
  # Beyond ln D of ImageNet, where a head on the sphere would not reach.
  variables["params"]["linear"]["bias"] += 20.0
  np.testing.assert_allclose(head.apply(variables, T), 20, rtol=1e-6)


@pytest.mark.parametrize("kind", [*("positional", "fourier"), "edm2"])
def test_is_float32_per_sample(kind):
  head = weighting.Weighting(kind)
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


SIGMA_D, SPREAD = 0.5, 0.05  # of the data as they are scaled, and as they are


def velocity_error(t):
  """`E ||sigma_d F - v||^2 / D` of the best F for normal data.

  Their posterior variance is `s^2 sigma^2 / (s^2 + sigma^2)`, and an error of
  `x0` is one of `v` over `sin(t)`. It changes with the logarithm of sigma, and
  a hundredfold.
  """
  sigma2 = trigflow.time_to_sigma(t, SIGMA_D) ** 2
  posterior = SPREAD**2 * sigma2 / (SPREAD**2 + sigma2)
  return posterior / jnp.sin(t) ** 2


def trained(kind):
  """`e^w E[error]` at eleven times after Adam has learnt `w`; 1 is right."""
  network = networks.build(
    networks.UNetConfig(
      resolution=8, in_channels=1, channels=8, weighting=kind, sigma_d=SIGMA_D
    )
  )
  head = weighting.Weighting(kind)
  params = {"weighting": head.init(jax.random.key(0), T)["params"]}
  adam = optax.adam(optax.linear_schedule(1e-2, 0.0, 3000))

  def loss(params, t):
    w = network.w(params, t)
    return jnp.mean(jnp.exp(w) * velocity_error(t) - w)

  def step(carry, key):
    params, state = carry
    t = trigflow.propose_times(key, 256, -0.8, 1.6, SIGMA_D)
    updates, state = adam.update(jax.grad(loss)(params, t), state)
    return (optax.apply_updates(params, updates), state), None

  start, keys = (params, adam.init(params)), jax.random.split(T_KEY, 3000)
  params, _ = jax.jit(lambda start: jax.lax.scan(step, start, keys)[0])(start)
  sigma = jnp.exp(-0.8 + 1.6 * jnp.linspace(-2.5, 2.5, 11))
  t = trigflow.sigma_to_time(sigma, SIGMA_D)
  return jnp.exp(network.w(params, t)) * velocity_error(t)


@pytest.mark.slow
def test_features_of_the_noise_level_follow_a_teachers_error():
  """At 2.5 deviations of the proposal either way, as in the middle."""
  off = lambda kind: np.abs(np.log(trained(kind)))
  assert off("fourier").max() < 0.15
  assert off("positional").max() > 2 * off("fourier").max()


def test_the_weight_is_finite_up_to_the_ends():
  config = networks.UNetConfig(resolution=8, in_channels=1, weighting="fourier")
  network = networks.build(config)
  head = weighting.Weighting("fourier")
  params = {"weighting": head.init(jax.random.key(0), T)["params"]}
  params["weighting"]["linear"]["kernel"] += 1.0
  t = jnp.array([0.0, 1e-30, 1e-4, 1.57, jnp.pi / 2], jnp.float32)
  assert np.isfinite(network.w(params, t)).all()
