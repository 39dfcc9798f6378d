"""Objectives at the states of the teacher's own trajectories."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import trigflow
from scm_jax.objectives import OBJECTIVES, teacher_path

C = 0.3  # deviation of the data of a teacher in closed form
STEPS = 3


def deviation(t, sigma_d):
  return jnp.sqrt((jnp.cos(t) * C) ** 2 + (jnp.sin(t) * sigma_d) ** 2)


def gaussian(sigma_d):
  """The exact velocity of Gaussian data."""

  def velocity(x, t, cond):
    del cond
    rate = jnp.sin(2 * t) / 2 * (sigma_d**2 - C**2)
    return trigflow.expand(rate / deviation(t, sigma_d) ** 2, x) * x

  return velocity


def test_the_states_are_those_of_the_ode_to_second_order(mlp):
  """Trajectories of Gaussian data keep to their place in the distribution."""
  start, t = trigflow.max_time(mlp.sigma_d), jnp.array([0.3, 0.5, 1.1, 1.5])
  point = mlp.point._replace(t=t)
  grown = deviation(t, mlp.sigma_d) / deviation(start, mlp.sigma_d)
  exact = trigflow.expand(grown, mlp.z) * mlp.z

  def error(steps):
    velocity = gaussian(mlp.sigma_d)
    x_t = teacher_path.solve(velocity, point, steps, mlp.sigma_d)
    return np.linalg.norm(x_t - exact) / np.linalg.norm(exact)

  assert error(4) < 0.04
  assert error(64) / error(128) == pytest.approx(4, rel=0.05)


def test_what_is_beyond_the_first_time_is_reached_too(mlp):
  """Times are drawn from a law without bounds."""
  last = trigflow.max_time(mlp.sigma_d) + jnp.array([0.0, 1e-3, 1e-3, 1e-6])
  point = mlp.point._replace(t=last)
  x_t = teacher_path.solve(gaussian(mlp.sigma_d), point, 4, mlp.sigma_d)
  np.testing.assert_allclose(x_t, mlp.z, rtol=1e-4)


def test_a_batch_on_the_path_is_the_teachers_data_and_noise(mlp):
  options = OBJECTIVES["scd"].options(mlp.sigma_d, state_steps=STEPS)
  point, rest = teacher_path.follow(mlp.point, mlp.velocity, options)
  x_t = teacher_path.solve(mlp.velocity, mlp.point, STEPS, mlp.sigma_d)
  assert rest is None
  mixed = trigflow.interpolate(point.x0, point.z, point.t)
  np.testing.assert_allclose(mixed, x_t, rtol=1e-12, atol=1e-14)
  np.testing.assert_allclose(
    trigflow.data_velocity(point.x0, point.z, point.t),
    mlp.velocity(x_t, mlp.t, mlp.cond),
    rtol=1e-12,
  )
  for velocity, steps in ((None, STEPS), (mlp.velocity, 0)):
    same = dataclasses.replace(options, state_steps=steps)
    assert teacher_path.follow(mlp.point, velocity, same) == (
      mlp.point,
      velocity,
    )


def asked(run, **fields):
  """Options, loss and extra draws of a run that asks a teacher."""
  spec = OBJECTIVES[run]
  given = {"target": "teacher"} if run == "teacher" else {}
  options = spec.options(**given, **fields)
  drawn = spec.draw(jax.random.key(1), 4, options)
  drawn.pop("t")
  if "s" in drawn:
    drawn["s"] = jnp.array([0.01, 0.2, 0.5, 1.5])
  return spec, options, drawn


RUNS = [
  "scd",
  "ayf",
  "teacher",
  pytest.param("facm", marks=pytest.mark.slow),
  pytest.param("ms_scd", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("run", RUNS)
def test_losses_are_those_of_noised_data_that_give_the_states(mlp, run):
  """With the teacher's velocity there, which is not asked for once more.

  Images do not matter: there are none.
  """
  spec, options, drawn = asked(run, sigma_d=mlp.sigma_d, state_steps=STEPS)
  plain = dataclasses.replace(options, state_steps=0)
  student, times = mlp.student._replace(w=two_times(mlp)), []

  def velocity(x, t, cond):
    times.append(t)
    return mlp.velocity(x, t, cond)

  def gradient(point, options):
    def loss(params):
      return spec.loss(student, params, point, velocity, options, 5e3)[0]

    return jax.grad(loss)(mlp.params)

  point = mlp.point._replace(drawn=drawn, x0=jnp.full_like(mlp.x0, 7.0))
  found = gradient(point, options)
  assert len(times) == STEPS + 1
  followed, _ = teacher_path.follow(point, mlp.velocity, options)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
    found,
    gradient(followed, plain),
  )


def two_times(mlp):
  return lambda params, t, s=0.0: mlp.w(params, t)


def test_distribution_matching_draws_from_noise_all_the_same(mlp):
  """What the critic learns from begins where samples begin."""
  spec, options, drawn = asked("scd_vsd", sigma_d=mlp.sigma_d)
  one = mlp.student._replace(w=two_times(mlp))
  student = one._replace(extra={"critic": one})
  params, point = mlp.params | {"critic": mlp.params}, mlp.point

  def metrics(steps):
    return spec.loss(
      student,
      params,
      point._replace(drawn=drawn),
      mlp.velocity,
      dataclasses.replace(options, state_steps=steps),
      5e3,
    )[1]

  noised, on_path = metrics(0), metrics(STEPS)
  for key in ("critic_mse", "matching_norm"):
    np.testing.assert_allclose(noised[key], on_path[key], rtol=1e-12)
  assert abs(noised["tangent_norm"] / on_path["tangent_norm"] - 1) > 1e-3


def test_a_sample_that_was_left_out_stays_so(mlp):
  """A gradient is computed again without it by data that are NaN."""
  spec, options, drawn = asked("scd", sigma_d=mlp.sigma_d, state_steps=STEPS)
  x0 = mlp.x0.at[1].set(jnp.nan)
  point = mlp.point._replace(drawn=drawn, x0=x0)
  _, metrics = spec.loss(
    mlp.student, mlp.params, point, mlp.velocity, options, 0
  )
  assert metrics["valid"].tolist() == [True, False, True, True]


def test_a_teacher_that_overflows_spoils_its_samples_alone(mlp):
  def velocity(x, t, cond):
    spoilt = trigflow.expand(jnp.arange(len(t)) == 1, x) & (t < 1)[0]
    return jnp.where(spoilt, jnp.inf, mlp.velocity(x, t, cond))

  _, options, drawn = asked("scd", sigma_d=mlp.sigma_d, state_steps=STEPS)
  spec = OBJECTIVES["scd"]
  point = mlp.point._replace(drawn=drawn)

  def loss(params):
    return spec.loss(mlp.student, params, point, velocity, options, 0)

  (total, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(
    mlp.params
  )
  assert metrics["valid"].tolist() == [True, False, True, True]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((total, gradient)))
