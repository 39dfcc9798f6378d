"""Samplers on Gaussian data, where every map is known in closed form.

For `x0 ~ N(0, c^2 I)` the trajectories are `x_t = spread(t) e` with `e` fixed,
so an exact sampler multiplies by a ratio of spreads.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import samplers, trigflow

SIGMA_D, C = 0.5, 0.3


def spread(t):
  """Standard deviation of `x_t`."""
  return np.sqrt((np.cos(t) * C) ** 2 + (np.sin(t) * SIGMA_D) ** 2)


def diffusion_F(u, t, cond):
  """`E[v | x_t] / sigma_d`, the perfect diffusion model."""
  del cond
  cos, sin = (trigflow.expand(f(t), u) for f in (jnp.cos, jnp.sin))
  variance = (cos * C) ** 2 + (sin * SIGMA_D) ** 2
  return u * cos * sin * (SIGMA_D**2 - C**2) / variance


def consistency_F(u, t, cond):
  """The network of `f(x, t) = c x / spread(t)`, the perfect student."""
  del cond
  cos, sin = (trigflow.expand(f(t), u) for f in (jnp.cos, jnp.sin))
  root = jnp.sqrt((cos * C) ** 2 + (sin * SIGMA_D) ** 2)
  return u * (cos - C / root) / sin


def normal(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape))


@pytest.mark.parametrize("solver", [samplers.heun, samplers.dpm_solver])
def test_solvers_are_of_second_order(solver):
  # Even in log-SNR, and short of 0, where log-SNR has no end.
  steps = np.array([64, 128, 256])
  start, end = 1.2, 0.4
  exact = SIGMA_D * spread(end) / spread(start)
  errors = []
  with jax.enable_x64(True):
    for n in steps:
      grid = np.linspace(np.log(np.tan(start)), np.log(np.tan(end)), n + 1)
      times = jnp.asarray(np.arctan(np.exp(grid)))
      x, _ = solver(diffusion_F, jnp.ones((1, 1)), {}, times, SIGMA_D)
      assert x.dtype == jnp.float64
      errors.append(abs(x.item() - exact))
  order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
  assert 1.9 < order < 2.1, (order, errors)


@pytest.mark.parametrize("solver", [samplers.heun, samplers.dpm_solver])
def test_solvers_reach_data_on_the_paper_grid(solver):
  errors = []
  for steps in (32, 64):
    times = samplers.ode_times(steps, SIGMA_D)
    x0, _ = solver(diffusion_F, jnp.ones((1, 1)), {}, times, SIGMA_D)
    exact = SIGMA_D * C / spread(np.float64(times[0]))
    errors.append(abs(x0.item() / exact - 1))
  assert errors[0] < 0.025
  assert errors[1] < errors[0] / 3


def test_ode_times_are_edms():
  times = np.asarray(samplers.ode_times(5, SIGMA_D), np.float64)
  assert times[-1] == 0 and len(times) == 6
  low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
  sigmas = [(high + i / 4 * (low - high)) ** 7 for i in range(5)]
  np.testing.assert_allclose(np.tan(times[:-1]) * SIGMA_D, sigmas, rtol=1e-3)


def test_consistency_sampler_is_exact():
  """It is linear in its noises here, so unit noises show its whole law."""
  with jax.enable_x64(True):
    for steps in (1, 2, 4):
      times = samplers.consistency_times(steps, SIGMA_D)
      # Sample i sees noise at step i alone: its result is that coefficient.
      noise = jnp.eye(steps)[..., None]
      result, _ = samplers.consistency(consistency_F, noise, {}, times, SIGMA_D)
      coefficients = np.asarray(result)[:, 0]
      x, expected = np.zeros(steps), []
      for i, t in enumerate(times):
        z = SIGMA_D * np.eye(steps)[i]
        x = z if i == 0 else np.cos(t) * x + np.sin(t) * z
        x = C * x / spread(t)
        expected = x
      np.testing.assert_allclose(coefficients, expected, rtol=1e-12)
      # The marginal is the data's, but for x_{t_max} not being pure noise.
      deviation = np.sqrt(np.sum(coefficients**2))
      np.testing.assert_allclose(deviation, C, rtol=1e-4)


def test_consistency_times():
  t_max = trigflow.max_time(SIGMA_D)
  assert samplers.consistency_times(1, SIGMA_D) == (t_max,)
  assert samplers.consistency_times(2, SIGMA_D) == (t_max, 1.1)
  assert samplers.consistency_times(2, SIGMA_D, 0.8) == (t_max, 0.8)
  np.testing.assert_allclose(
    samplers.consistency_times(4, SIGMA_D, 0.9), (t_max, 0.9, 0.6, 0.3)
  )


@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_steps_of_equal_length(steps):
  """They are what a second time of 0 stands for."""
  times = samplers.consistency_times(steps, SIGMA_D, 0.0)
  assert times[0] == trigflow.max_time(SIGMA_D)
  lengths = -np.diff([math.pi / 2, *times[1:], 0.0])
  np.testing.assert_allclose(lengths, math.pi / 2 / steps)


def test_one_solver_step_is_the_consistency_formula():
  noise = normal(4, 3).astype(jnp.float32)
  times = samplers.ode_times(1, SIGMA_D)
  start = (trigflow.max_time(SIGMA_D),)
  expected, _ = samplers.consistency(
    diffusion_F, noise[None], {}, start, SIGMA_D
  )
  for solver in (samplers.heun, samplers.dpm_solver):
    x0, _ = solver(diffusion_F, noise, {}, times, SIGMA_D)
    # Heun works at sigma = 80, so float32 leaves it four figures here.
    np.testing.assert_allclose(x0, expected, rtol=2e-3, atol=1e-5)


def test_evaluations():
  calls = []

  def F(u, t, cond):
    assert t.shape == u.shape[:1]
    calls.append(cond)
    return diffusion_F(u, t, cond)

  def count(sampler, *args):
    calls.clear()
    with jax.disable_jit():  # the loops run in Python: F sees every call
      sampler(F, *args, SIGMA_D)
    return len(calls)

  noise = jnp.ones((3, 2, 1))
  for steps in (3, 5):
    times = samplers.ode_times(steps, SIGMA_D)
    assert count(samplers.heun, noise[0], {}, times) == 2 * steps - 1
    assert count(samplers.dpm_solver, noise[0], {}, times) == steps
  times = samplers.consistency_times(3, SIGMA_D)
  assert count(samplers.consistency, noise, {}, times) == 3


def test_noise_is_a_function_of_seed_and_index():
  draw = lambda seed, *index: np.asarray(
    samplers.draw_noise(seed, jnp.array(index), 2, (4, 4, 1))
  )
  together = draw(0, 0, 1, 2, 3)
  assert together.shape == (2, 4, 4, 4, 1)
  np.testing.assert_array_equal(together[:, [3, 1]], draw(0, 3, 1))
  seeds = draw(jnp.array([5, 0]), 3, 1)
  np.testing.assert_array_equal(seeds[:, :1], draw(5, 3))
  np.testing.assert_array_equal(seeds[:, 1:], draw(0, 1))
  # All draws, samples and seeds differ, and look normal.
  many = np.concatenate([together, draw(1, 0, 1, 2, 3)]).reshape(16, -1)
  correlation = np.corrcoef(many) - np.eye(16)
  assert np.abs(correlation).max() < 0.8
  assert abs(many.mean()) < 0.2 and abs(many.std() - 1) < 0.2


def map_F(u, t, cond):
  """The network of `f(x, t, s) = spread(s) / spread(t) x`."""
  wide = lambda x: trigflow.expand(x, u)
  s = cond["target"]
  variance = lambda t: (jnp.cos(t) * C) ** 2 + (jnp.sin(t) * SIGMA_D) ** 2
  ratio = jnp.sqrt(variance(s) / variance(t))
  return u * wide((jnp.cos(t - s) - ratio) / jnp.sin(t - s))


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_flow_maps_draw_the_data(steps, gamma):
  """Without fresh noise by the trajectory; with it, data of that variance."""
  times = samplers.consistency_times(steps, SIGMA_D)
  with jax.enable_x64(True):
    noise = normal(steps, 20_000, 1)
    x0, path = samplers.flow_map(map_F, noise, {}, times, SIGMA_D, gamma)
    if not gamma:
      end = C / spread(times[0]) * SIGMA_D
      np.testing.assert_allclose(x0, end * noise[0], rtol=1e-10)
    for x_t, t in zip(path.x_t, times, strict=True):
      assert np.std(x_t) == pytest.approx(spread(t), rel=0.02)
  assert np.std(x0) == pytest.approx(C, rel=0.02)


@pytest.mark.parametrize("steps, gamma", [(1, 0.0), (1, 0.5), (4, 1.0)])
def test_flow_maps_with_fresh_noise_are_consistency_models(steps, gamma):
  """In one step, or where every jump ends at data: to the bit in one."""
  times = samplers.consistency_times(steps, SIGMA_D)
  noise = normal(steps, 8, 3)
  ours, _ = samplers.flow_map(map_F, noise, {}, times, SIGMA_D, gamma)
  at_data = lambda u, t, cond: map_F(u, t, {"target": jnp.zeros_like(t)})
  theirs, _ = samplers.consistency(at_data, noise, {}, times, SIGMA_D)
  np.testing.assert_allclose(ours, theirs, rtol=0 if steps == 1 else 1e-5)
