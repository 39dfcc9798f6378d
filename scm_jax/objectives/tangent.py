"""The tangent `g` of Algorithm 1: `cos(t) df/dt`, three ways to take it.

`dF` throughout is the rearranged derivative `cos(t) sin(t) dF/dt` along the
trajectory (Section 5.1), of `F` as a function of `(x_t / sigma_d, t)`. The
paper prints `(cos t sin t dx_t/dt, cos t sin t sigma_d)` as its tangent, which
yields `sigma_d` times that; here `sigma_d` stands where it is used.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.objectives import diagnostics

# A network at `(x / sigma_d, t)`: its output, and what else comes of the pass.
Primal = Callable[[Array, Array], tuple[Array, Any]]


def _direction(x_t, dx_dt, t, sigma_d):
  """The point `(x_t / sigma_d, t)` and the tangent there, both scaled."""
  scale = jnp.cos(t) * jnp.sin(t)
  wide = trigflow.expand(scale, x_t)
  return (x_t / sigma_d, t), (wide * dx_dt / sigma_d, scale)


def by_jvp(
  primal: Primal, x_t: Array, dx_dt: Array, t: Array, sigma_d: float
) -> tuple[Array, Array, Any]:
  """`(F, dF, aux)` exactly, from one pass that also is the forward pass.

  Differentiating a loss through the returned `F` reuses this pass; `dF` is
  stopped, so its branch costs nothing backward.
  """
  point, tangent = _direction(x_t, dx_dt, t, sigma_d)
  F, dF, aux = jax.jvp(primal, point, tangent, has_aux=True)
  return F, jax.lax.stop_gradient(dF), aux


def by_finite_difference(
  primal: Primal,
  x_t: Array,
  dx_dt: Array,
  t: Array,
  sigma_d: float,
  step: float = 1e-3,
) -> tuple[Array, Array, Any]:
  """`(F, dF, aux)` by central differences, for checks and ablations.

  Costs two more forward passes. `step` is relative to the rearranged tangent;
  the error is of order `step^2`, plus rounding over `step`.
  """
  (u, _), (du, dt) = _direction(x_t, dx_dt, t, sigma_d)
  F, aux = primal(u, t)
  ahead, _ = primal(u + step * du, t + step * dt)
  behind, _ = primal(u - step * du, t - step * dt)
  return F, jax.lax.stop_gradient((ahead - behind) / (2 * step)), aux


def consistency_tangent(
  F: Array,
  dF: Array,
  x_t: Array,
  dx_dt: Array,
  t: Array,
  r: Array | float,
  sigma_d: float,
  variance_exact: bool = False,
) -> Array:
  """`g` before normalisation (Algorithm 1); at `r = 1`, `cos(t) df/dt`.

  Args:
    F: the network's output, `[B, ...]`; its gradient is stopped.
    dF: `cos(t) sin(t) dF/dt`.
    x_t, dx_dt: the noisy sample and its velocity.
    t: radians `[B]`.
    r: tangent warm-up in [0, 1].
    sigma_d: the data's standard deviation.
    variance_exact: rCM's warm-up, whose first factor is
      `cos(t) sqrt(1 - r^2 sin(t)^2)` instead of `cos(t)^2`; equal at `r = 1`.
  """
  F = jax.lax.stop_gradient(F)
  cos, sin = (trigflow.expand(f(t), x_t) for f in (jnp.cos, jnp.sin))
  first = cos * jnp.sqrt(1 - (r * sin) ** 2) if variance_exact else cos**2
  velocity_gap = sigma_d * F - dx_dt
  return -first * velocity_gap - r * (cos * sin * x_t + sigma_d * dF)


def discrete_tangent(
  F_fn: Callable[[Array, Array], Array],
  F: Array,
  x_t: Array,
  dx_dt: Array,
  t: Array,
  t_next: Array,
  r: Array | float,
  sigma_d: float,
) -> Array:
  """dsCD's `g = cos(t) Delta`, over the step from `t` to `t_next` (App. E).

  The sample moves to `t_next` by one DDIM step along `dx_dt`. As `t_next`
  approaches `t` this becomes `consistency_tangent`.

  Args:
    F_fn: the network at `(x / sigma_d, t)`, gradients stopped by this function.
    F: its output at `(x_t / sigma_d, t)`.
    x_t, dx_dt, t, r, sigma_d: as in `consistency_tangent`.
    t_next: radians `[B]`, less than `t`.
  """
  F = jax.lax.stop_gradient(F)
  delta = trigflow.expand(t - t_next, x_t)
  x_next = jnp.cos(delta) * x_t - jnp.sin(delta) * dx_dt
  F_next = jax.lax.stop_gradient(F_fn(x_next / sigma_d, t_next))
  change = sigma_d * (jnp.cos(delta) * F - F_next) / jnp.sin(delta)
  cos_next, sin_next = (
    trigflow.expand(f(t_next), x_t) for f in (jnp.cos, jnp.sin)
  )
  difference = -cos_next * (sigma_d * F - dx_dt) - r * sin_next * (x_t + change)
  return trigflow.expand(jnp.cos(t), x_t) * difference


def normalize_tangent(g: Array, t: Array, kind: str, c: float) -> Array:
  """Bounds the tangent (Section 4.2).

  Args:
    g: `[B, ...]`.
    t: radians `[B]`.
    kind: `l2`, the paper's `g / (||g|| + c)` with the norm over the whole
      sample; `rms`, the same with the root-mean-square; `clip`, `df/dt`
      clipped to [-1, 1]; `none`.
    c: the paper's constant, 0.1.
  """
  if kind == "none":
    return g
  if kind == "clip":
    bound = trigflow.expand(jnp.cos(t), g)
    return jnp.clip(g, -bound, bound)
  norm = diagnostics.norms(g)
  if kind == "rms":
    norm = norm / (g[0].size ** 0.5)
  return g / trigflow.expand(norm + c, g)
