"""Trajectories of a teacher's ODE, from noise to data, with all their states.

The solver is that of `samplers.dpm_solver`, with times of its own for every
trajectory, so that a batch sees more noise levels than a solver has steps.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.objectives.velocity import Velocity

SIGMA_MIN = 0.002  # the last noise level before data, as in EDM


def times(
  shift: Array, steps: int, sigma_d: float, sigma_min: float = SIGMA_MIN
) -> Array:
  """Returns the times of trajectories, evenly spaced in `ln sigma`.

  Args:
    shift: by which part of a step the times of each trajectory come later, from
      -1/2 to 1/2, `[B]`; the first time is `t_max` whatever the shift.
    steps: `N`, the evaluations of the velocity for a trajectory, 2 or more.
    sigma_d: the data's standard deviation.
    sigma_min: the noise level of the last time before 0, without a shift.

  Returns:
    Radians `[N + 1, B]`, decreasing from `t_max` to 0.
  """
  step = math.log(trigflow.SIGMA_MAX / sigma_min) / (steps - 1)
  place = jnp.arange(steps, dtype=shift.dtype)[:, None]
  place += jnp.where(place > 0, shift, 0.0)
  sigma = trigflow.SIGMA_MAX * jnp.exp(-step * place)
  decreasing = trigflow.sigma_to_time(sigma, sigma_d)
  return jnp.concatenate([decreasing, jnp.zeros_like(decreasing[:1])])


def solve(
  velocity: Velocity, z: Array, cond: dict[str, Array], times: Array
) -> Array:
  """Solves trajectories by DPM-Solver++ 2M (sCM, Equation 28).

  The first step, which has no predecessor, and the last one, at whose end the
  log-SNR is infinite, are of first order.

  Args:
    velocity: the teacher.
    z: noise `[B, ...]` with the data's standard deviation.
    cond: the batch's condition.
    times: radians `[N + 1, B]`, decreasing to 0.

  Returns:
    The states at all times, `[B, N + 1, ...]`, of which the first is `z`.
  """
  wide = lambda t: trigflow.expand(t, z)

  def step(carry, given):
    x, x0_before = carry
    s, t, weight = given
    x0 = wide(jnp.cos(s)) * x - wide(jnp.sin(s)) * velocity(x, s, cond)
    ahead = x0 + wide(weight) * (x0 - x0_before)
    moved = wide(jnp.sin(t)) * x + wide(jnp.sin(s - t)) * ahead
    return (moved / wide(jnp.sin(s)), x0), x

  # How far the estimate of the data is extrapolated from the last two.
  length = jnp.diff(-jnp.log(jnp.tan(times[:-1])), axis=0)
  inner = length[1:] / (2 * length[:-1])
  none = jnp.zeros_like(times[:1])
  weights = jnp.concatenate([none, inner, none])
  scanned = times[:-1], times[1:], weights
  (end, _), states = jax.lax.scan(step, (z, jnp.zeros_like(z)), scanned)
  return jnp.moveaxis(jnp.concatenate([states, end[None]]), 0, 1)
