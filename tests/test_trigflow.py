"""TrigFlow's identities, in f64, and its agreement with EDM."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from scm_jax import trigflow

SIGMA_D = 0.5
TIMES = np.array([0.002, 0.1, 0.5, 1.1, 1.5, 1.569])


@pytest.fixture
def circle() -> Iterator[tuple[Array, Array, Array]]:
  """Data, noise and times, in float64."""
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    x0 = jnp.asarray(rng.normal(0, SIGMA_D, (6, 4, 4, 2)))
    z = jnp.asarray(rng.normal(0, SIGMA_D, (6, 4, 4, 2)))
    yield x0, z, jnp.asarray(TIMES)


def test_data_velocity_is_the_derivative_of_the_interpolation(circle):
  x0, z, t = circle
  _, derivative = jax.jvp(
    lambda t: trigflow.interpolate(x0, z, t), (t,), (jnp.ones_like(t),)
  )
  velocity = trigflow.data_velocity(x0, z, t)
  np.testing.assert_allclose(velocity, derivative, atol=1e-15)


def test_the_ends_of_the_circle_are_data_and_noise(circle):
  x0, z, _ = circle
  np.testing.assert_array_equal(trigflow.interpolate(x0, z, jnp.zeros(6)), x0)
  end = trigflow.interpolate(x0, z, jnp.full(6, jnp.pi / 2))
  np.testing.assert_allclose(end, z, atol=1e-15)


def test_f_at_zero_is_the_identity(circle):
  x, F, _ = circle
  f = trigflow.denoise(1e6 * F, x, jnp.zeros(6), SIGMA_D)
  np.testing.assert_array_equal(f, x)


def test_the_exact_F_gives_back_the_data(circle):
  x0, z, t = circle
  x_t = trigflow.interpolate(x0, z, t)
  F = trigflow.data_velocity(x0, z, t) / SIGMA_D
  clean = trigflow.denoise(F, x_t, t, SIGMA_D)
  np.testing.assert_allclose(clean, x0, atol=1e-14)


def test_edm_round_trip(circle):
  x0, z, t = circle
  x_t = trigflow.interpolate(x0, z, t)
  sample, sigma = trigflow.to_edm(x_t, t, SIGMA_D)
  # EDM's own form: data plus noise of standard deviation sigma.
  unit = z / SIGMA_D
  expected = x0 + trigflow.expand(sigma, unit) * unit
  np.testing.assert_allclose(sample, expected, rtol=1e-10)
  back, t_back = trigflow.from_schedule(
    sample, jnp.ones_like(sigma), sigma, SIGMA_D
  )
  np.testing.assert_allclose(back, x_t, rtol=1e-10, atol=1e-14)
  np.testing.assert_allclose(t_back, t, rtol=1e-12)
  np.testing.assert_allclose(
    trigflow.sigma_to_time(sigma, SIGMA_D), t, rtol=1e-12
  )


def test_any_schedule_comes_onto_the_circle(circle):
  x0, z, _ = circle
  # A variance-preserving schedule and rectified flow, ends included.
  alpha = jnp.array([1.0, 0.8, 0.6, 0.7, 0.25, 0.0])
  sigma = jnp.array([0.0, 0.6, 0.8, 0.3, 0.75, 1.0])
  wide = lambda v: trigflow.expand(v, x0)
  x = wide(alpha) * x0 + wide(sigma) * z / SIGMA_D
  x_t, t = trigflow.from_schedule(x, alpha, sigma, SIGMA_D)
  np.testing.assert_allclose(
    x_t, trigflow.interpolate(x0, z, t), rtol=1e-10, atol=1e-14
  )
  assert t[0] == 0
  np.testing.assert_allclose(t[-1], np.pi / 2)


def test_a_flow_network_at_its_best_is_trigflows():
  """Of Gaussian data: the expectation of what each of the two learns."""
  mean, deviation = 0.3, 0.7

  def expectations(z, of_data, of_noise):
    """Means of data and noise, given `z = of_data data + of_noise noise`."""
    variance = of_data**2 * deviation**2 + of_noise**2
    surprise = (z - of_data * mean) / variance
    return mean + of_data * deviation**2 * surprise, of_noise * surprise

  def v(params, y, tau, cond):
    tau = trigflow.expand(tau, y)
    data, noise = expectations(y, tau, 1 - tau)
    return data - noise

  with jax.enable_x64(True):
    t = jnp.linspace(0.01, 1.56, 9)
    u = jnp.asarray(np.random.default_rng(0).normal(size=(9, 2)))
    F = trigflow.network_from_sit(v, SIGMA_D)({}, u, t, {})
    cos, sin = (trigflow.expand(f(t), u) for f in (jnp.cos, jnp.sin))
    data, noise = expectations(u, cos, sin)
    np.testing.assert_allclose(F, cos * noise - sin * data, rtol=1e-12)


def test_an_edm_network_denoises_as_edm_says(circle):
  x0, z, t = circle
  x_t = trigflow.interpolate(x0, z, t)
  gains = jnp.arange(1.0, 7.0)

  def F_edm(params, u, c_noise, cond, shift):
    return jnp.tanh(params * u) + trigflow.expand(c_noise * cond, u) + shift

  F = trigflow.network_from_edm(F_edm, SIGMA_D)
  output = F(1.7, x_t / SIGMA_D, t, gains, shift=0.3)
  wrapped = trigflow.denoise(output, x_t, t, SIGMA_D)

  # Equation 7 and Table 1 of EDM (arXiv 2206.00364).
  x, s = trigflow.to_edm(x_t, t, SIGMA_D)
  sigma = trigflow.expand(s, x)
  total = sigma**2 + SIGMA_D**2
  c_skip = SIGMA_D**2 / total
  c_out = sigma * SIGMA_D / jnp.sqrt(total)
  c_in = 1 / jnp.sqrt(total)
  D = c_skip * x + c_out * F_edm(1.7, c_in * x, jnp.log(s) / 4, gains, 0.3)
  np.testing.assert_allclose(wrapped, D, rtol=1e-9, atol=1e-13)


def test_time_proposal():
  P_mean, P_std, count = -0.8, 1.6, 100_000
  t = trigflow.propose_times(jax.random.key(0), count, P_mean, P_std, SIGMA_D)
  assert t.shape == (count,)
  assert 0 < t.min() and t.max() < np.pi / 2
  log_sigma = np.log(trigflow.time_to_sigma(t, SIGMA_D))
  # Five standard errors each.
  np.testing.assert_allclose(log_sigma.mean(), P_mean, atol=5 * 1.6 / 316)
  np.testing.assert_allclose(log_sigma.std(), P_std, rtol=5 / 447)
  np.testing.assert_allclose(np.median(t), 0.732, atol=0.012)


def test_times_are_float32():
  key = jax.random.key(0)
  t = trigflow.propose_times(key, 4, -0.8, 1.6, SIGMA_D)
  assert t.dtype == jnp.float32
  with jax.enable_x64(True):
    t = trigflow.propose_times(key, 4, -0.8, 1.6, SIGMA_D)
    assert t.dtype == jnp.float32
  assert trigflow.max_time(SIGMA_D) == pytest.approx(1.564546, abs=1e-6)
