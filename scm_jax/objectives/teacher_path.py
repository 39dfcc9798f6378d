"""States of the teacher's own trajectories, in place of noised data.

A guided teacher does not pass through noised data: the more it is guided, the
further its trajectories lie from them. A student that is to follow these can
learn at the states that they pass, which begin with noise and need no images
(arXiv 2511.20410).
"""

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.objectives import diagnostics
from scm_jax.objectives.point import Point
from scm_jax.objectives.spec import Options
from scm_jax.objectives.velocity import Velocity


def follow(
  point: Point, velocity: Velocity | None, options: Options
) -> tuple[Point, Velocity | None]:
  """Returns the batch on the teacher's trajectories, if the options say so.

  Its data and noise become those that the teacher sees in each state: mixed as
  noised data are, they give the state, and the velocity of the mixture is the
  teacher's. So the teacher need not be asked there again. Without a teacher, or
  where `state_steps` is 0, the batch stays as it is.

  Returns:
    The batch and the velocity to ask for, which is None once it is in the
    batch. Where the data or the teacher's velocities are not finite, nor are
    the returned data.
  """
  if velocity is None or not options.state_steps:
    return point, velocity
  x_t = solve(velocity, point, options.state_steps, options.sigma_d)
  v = velocity(x_t, point.t, point.cond)
  t = trigflow.expand(point.t, x_t)
  x0 = jax.lax.stop_gradient(jnp.cos(t) * x_t - jnp.sin(t) * v)
  # Data that are NaN say that the sample is left out (`accumulation`).
  x0 = diagnostics.select(diagnostics.finite(point.x0), x0, jnp.nan)
  z = jax.lax.stop_gradient(jnp.sin(t) * x_t + jnp.cos(t) * v)
  z = diagnostics.select(diagnostics.finite(x0), z, point.z)
  return point._replace(x0=x0, z=z), None


def solve(
  velocity: Velocity, point: Point, steps: int, sigma_d: float
) -> Array:
  """Solves a teacher's ODE from noise to each sample's time.

  The steps are even in the angle `t`. The estimate of the clean sample is
  extrapolated to the middle of a step from the two last ones (Adams and
  Bashforth's second order; the first step is DDIM's), and the step is exact for
  it. On a mixture of Gaussians the states are off by at most 4 % in 4 steps,
  where DDIM needs 20. Each step is one evaluation of the teacher. The batch's
  noise is `x_t` at the time at which sampling starts.

  Returns:
    `x_t` at the times `point.t`, `[B, ...]`.
  """
  start = trigflow.max_time(sigma_d)
  times = [start + (point.t - start) * (i / steps) for i in range(steps)]
  times.append(point.t)
  x, before = point.z, None
  for t, after in zip(times[:-1], times[1:], strict=True):
    v = velocity(x, t, point.cond)
    sin, cos, sin_after, sin_step = (
      trigflow.expand(value, x)
      for value in (jnp.sin(t), jnp.cos(t), jnp.sin(after), jnp.sin(t - after))
    )
    x0 = cos * x - sin * v
    middle = x0 if before is None else x0 + (x0 - before) / 2
    x, before = (sin_after * x + sin_step * middle) / sin, x0
  return x
