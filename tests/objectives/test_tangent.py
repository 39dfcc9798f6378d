"""The tangent: exact, as Algorithm 1 has it, and the limit of its rivals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import schema, trigflow
from scm_jax.errors import ConfigError
from scm_jax.objectives import (
  consistency,
  derivatives,
  jumps,
  tangent,
  weighting,
)
from scm_jax.objectives.consistency import Options


def wide(v):
  """Per-sample values to NHWC."""
  return np.asarray(v)[:, None, None, None]


def g_of(problem, dx_dt, r=1.0, derive=tangent.by_jvp, warmup="linear"):
  direction = problem.direction(dx_dt)
  F, dF = derive(problem.primal, direction)
  return tangent.consistency_tangent(direction, F, dF, r, warmup)


def order(steps, errors):
  return np.polyfit(np.log(steps), np.log(errors), 1)[0]


def test_g_is_the_central_difference_of_f_along_the_trajectory(problem):
  x0, z, t, sigma_d = problem.x0, problem.z, problem.t, problem.sigma_d

  @jax.jit
  def f(t):
    """The consistency function where the trajectory of `(x0, z)` is at `t`."""
    x_t = trigflow.interpolate(x0, z, t)
    F = problem.primal(x_t / sigma_d, t)
    return trigflow.denoise(F, x_t, t, sigma_d)

  dx_dt = trigflow.data_velocity(x0, z, t)
  g = np.asarray(jax.jit(lambda: g_of(problem, dx_dt))())
  assert g.dtype == np.float64
  h = 1e-5
  central = wide(np.cos(t)) * (f(t + h) - f(t - h)) / (2 * h)
  for i in range(len(t)):
    error = np.linalg.norm(g[i] - central[i]) / np.linalg.norm(central[i])
    assert error <= 1e-6


def test_g_is_cos_t_df_dt_along_any_velocity(mlp):
  dx_dt = mlp.velocity(mlp.x_t, mlp.t, mlp.cond)

  def f(x_t, t):
    F = mlp.primal(x_t / mlp.sigma_d, t)
    return trigflow.denoise(F, x_t, t, mlp.sigma_d)

  _, df_dt = jax.jvp(f, (mlp.x_t, mlp.t), (dx_dt, jnp.ones_like(mlp.t)))
  expected = wide(np.cos(mlp.t)) * df_dt
  for warmup in tangent.WARMUPS:  # all end there
    g = g_of(mlp, dx_dt, warmup=warmup)
    np.testing.assert_allclose(g, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("r", [0.0, 0.4])
def test_warmup_is_algorithm_1(mlp, r):
  """At `r = 0` nothing but the gap between the velocities is left."""
  dx_dt = mlp.velocity(mlp.x_t, mlp.t, mlp.cond)
  F, dF_dt = jax.jvp(
    mlp.primal,
    (mlp.x_t / mlp.sigma_d, mlp.t),
    (dx_dt / mlp.sigma_d, jnp.ones_like(mlp.t)),
  )
  cos, sin = wide(np.cos(mlp.t)), wide(np.sin(mlp.t))
  gap = mlp.sigma_d * F - dx_dt
  second = r * cos * sin * (mlp.x_t + mlp.sigma_d * dF_dt)
  np.testing.assert_allclose(
    g_of(mlp, dx_dt, r), -(cos**2) * gap - second, rtol=1e-10, atol=1e-14
  )
  rcm = -cos * np.sqrt(1 - r**2 * sin**2) * gap - second
  np.testing.assert_allclose(
    g_of(mlp, dx_dt, r, warmup="variance_exact"), rcm, rtol=1e-10, atol=1e-14
  )


def test_finite_differences_converge_to_second_order(mlp):
  dx_dt = trigflow.data_velocity(mlp.x0, mlp.z, mlp.t)
  exact = g_of(mlp, dx_dt)
  steps = np.array([0.04, 0.02, 0.01, 0.005])
  errors = []
  for step in steps:
    derive = functools.partial(tangent.by_finite_difference, size=step)
    g = g_of(mlp, dx_dt, derive=derive)
    errors.append(np.linalg.norm(g - exact))
  assert 1.9 < order(steps, errors) < 2.1


@pytest.mark.parametrize("r", [0.4, 1.0])
def test_discrete_tangent_converges_to_the_continuous_one(mlp, r):
  dx_dt = mlp.velocity(mlp.x_t, mlp.t, mlp.cond)
  exact = g_of(mlp, dx_dt, r)
  F = mlp.primal(mlp.x_t / mlp.sigma_d, mlp.t)
  steps = np.array([1e-2, 3e-3, 1e-3, 3e-4])
  errors = []
  for step in steps:
    g = tangent.discrete_tangent(
      mlp.direction(dx_dt), mlp.primal, F, mlp.t - step, r
    )
    errors.append(np.linalg.norm(g - exact))
  assert 0.95 < order(steps, errors) < 1.05
  assert errors[-1] < 1e-3 * np.linalg.norm(exact)


def test_discrete_tangent_is_a_difference_of_f(mlp):
  """At `r = 1`: the change of `f` over a DDIM step, over `sin(t - t')`."""
  x_t, t, sigma_d = mlp.x_t, mlp.t, mlp.sigma_d
  dx_dt = mlp.velocity(x_t, t, mlp.cond)
  delta = jnp.array([0.04, 0.1, 0.5, 1.2])
  cos, sin = wide(np.cos(delta)), wide(np.sin(delta))

  def f(x, t):
    return trigflow.denoise(mlp.primal(x / sigma_d, t), x, t, sigma_d)

  F = mlp.primal(x_t / sigma_d, t)
  g = tangent.discrete_tangent(
    mlp.direction(dx_dt), mlp.primal, F, t - delta, 1.0
  )
  change = f(x_t, t) - f(cos * x_t - sin * dx_dt, t - delta)
  np.testing.assert_allclose(
    g, wide(np.cos(t)) * change / sin, rtol=1e-9, atol=1e-13
  )


def test_tangents_take_no_gradient(mlp):
  """`g` is a constant to the loss, whichever way it was taken."""
  dx_dt = mlp.velocity(mlp.x_t, mlp.t, mlp.cond)

  def total(params, kind):
    there = dataclasses.replace(mlp, params=params)
    if kind != "discrete":
      return g_of(there, dx_dt, derive=kind).sum()
    F = there.primal(mlp.x_t / mlp.sigma_d, mlp.t)
    return tangent.discrete_tangent(
      mlp.direction(dx_dt), there.primal, F, mlp.t - 0.01, 1.0
    ).sum()

  for kind in (tangent.by_jvp, tangent.by_finite_difference, "discrete"):
    gradient = jax.grad(total)(mlp.params, kind)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_normalisations():
  rng = np.random.default_rng(0)
  g = rng.normal(size=(4, 2, 2, 3)) * wide([1e-3, 0.1, 1.0, 1e4])
  t = jnp.array([0.1, 0.7, 1.2, 1.5])
  jump = tangent.Jump(t, 0.5)
  c = 0.1
  norm = lambda v: np.sqrt(np.sum(np.square(v), axis=(1, 2, 3)))
  apply = lambda kind: np.asarray(
    tangent.normalize_tangent(jnp.asarray(g), jump, kind, c)
  )
  np.testing.assert_array_equal(apply("none"), g)
  np.testing.assert_allclose(norm(apply("l2")), norm(g) / (norm(g) + c))
  np.testing.assert_allclose(apply("l2"), g / wide(norm(g) + c))
  rms = norm(g) / 12**0.5
  np.testing.assert_allclose(apply("rms"), g / wide(rms + c))
  # Clipping bounds df/dt = g / cos(t) by 1, entry by entry.
  rate = g / wide(np.cos(t))
  clipped = apply("clip") / wide(np.cos(t))
  np.testing.assert_allclose(clipped, np.clip(rate, -1, 1), rtol=1e-12)
  assert np.any(np.abs(rate) > 1) and np.any(np.abs(rate) < 1)
  # Whatever its scale.
  jump = jump._replace(scale="ayf")
  clipped = apply("clip") / wide(jump.a)
  np.testing.assert_allclose(clipped, np.clip(g / wide(jump.a), -1, 1))


@pytest.mark.parametrize(
  "field", sorted(set(schema.choices(Options)) - {"tangent_dtype"})
)
def test_an_option_that_there_is_not_is_an_error(mlp, field):
  """No value falls through to a default, here or in the options."""
  with pytest.raises(ConfigError, match=f"{field} is 'clipp'"):
    Options(**{field: "clipp"})


def test_every_option_has_its_code():
  tables = {
    "tangent_norm": tangent.NORMALIZATIONS,
    "warmup": tangent.WARMUPS,
    "derivative": derivatives.DERIVATIVES,
    "reduction": consistency.REDUCTIONS,
    "prior_weight": consistency.PRIORS,
    "weighting_unit": weighting.UNITS,
    "ends": jumps.ENDS,
    "tangent_scale": tangent.SCALES,
  }
  for field, table in tables.items():
    assert set(schema.choices(Options)[field]) == set(table)


def test_a_normalisation_that_there_is_not_is_an_error(mlp):
  with pytest.raises(ConfigError, match="tangent_norm is 'RMS'"):
    tangent.normalize_tangent(mlp.x0, tangent.Jump(mlp.t, 0.5), "RMS", 0.1)
