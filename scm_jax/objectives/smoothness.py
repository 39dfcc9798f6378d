"""How fast a network changes along its trajectories: what sCM's tangent is of.

The second term of the tangent is `sin(t) (x_t + sigma_d dF/dt)` (Equation 6).
With EDM's `c_noise = ln(sigma_d tan t) / 4` the time enters by a function whose
derivative, `1 / (4 sin t cos t)`, has no bound at either end, and by Fourier
features of it that turn it by tens; TrigFlow's `c_noise = t` with positional
features is meant to cure this (Section 4.1, Figure 4).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow


def derivative_norms(
  F: Callable,
  x0: Array,
  z: Array,
  times: Array,
  cond: dict[str, Array],
  sigma_d: float,
) -> dict[str, Array]:
  """Root-mean-squares of a network and its derivatives by time.

  Args:
    F: `F(x, t, cond)`, parameters bound.
    x0: data `[B, ...]`.
    z: noise from `N(0, sigma_d^2 I)`, like `x0`.
    times: radians `[T]`, each of which all samples are taken to.
    cond: condition of the batch.
    sigma_d: the data's standard deviation.

  Returns:
    Arrays `[T]`: `F` itself; `by_time`, `sin(t) dF/dt` of the time input alone;
    `along`, the same along the sample's trajectory.
  """

  def at(time):
    t = jnp.full(len(x0), time)
    x_t = trigflow.interpolate(x0, z, t)
    dx_dt = trigflow.data_velocity(x0, z, t)
    derive = lambda direction, rate: jax.jvp(
      lambda u, t: F(u, t, cond), (x_t / sigma_d, t), (direction, rate)
    )
    rate = jnp.sin(t)
    output, by_time = derive(jnp.zeros_like(x_t), rate)
    _, along = derive(trigflow.expand(rate, x_t) * dx_dt / sigma_d, rate)
    rms = lambda v: jnp.sqrt(jnp.mean(jnp.square(v)))
    return {"F": rms(output), "by_time": rms(by_time), "along": rms(along)}

  return jax.lax.map(at, times)
