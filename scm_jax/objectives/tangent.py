"""The tangent `g` of Algorithm 1, `cos(t) df/dt`, and three ways to take it.

`dF` throughout is the rearranged derivative `cos(t) sin(t) dF/dt` along the
trajectory (Section 5.1), of `F` as a function of `(x_t / sigma_d, t)`. The
paper prints `(cos t sin t dx_t/dt, cos t sin t sigma_d)` as its tangent, which
yields `sigma_d` times that; here `sigma_d` stands where it is used.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import schema, trigflow
from scm_jax.objectives import diagnostics

# A network at `(x / sigma_d, t)`.
Primal = Callable[[Array, Array], Array]


class Direction(NamedTuple):
  """Noisy samples and the direction in which their trajectories go.

  Attributes:
    x_t: the noisy samples, `[B, ...]`.
    dx_dt: their velocity, like `x_t`.
    t: radians `[B]`.
    sigma_d: the data's standard deviation.
  """

  x_t: Array
  dx_dt: Array
  t: Array
  sigma_d: float


def _scaled(step: Direction) -> tuple[tuple, tuple]:
  """Returns `(x_t / sigma_d, t)` and the rearranged tangent there."""
  x_t, dx_dt, t, sigma_d = step
  scale = jnp.cos(t) * jnp.sin(t)
  wide = trigflow.expand(scale, x_t)
  return (x_t / sigma_d, t), (wide * dx_dt / sigma_d, scale)


def by_jvp(primal: Primal, step: Direction) -> tuple[Array, Array]:
  """Returns `(F, dF)` exactly, by the pass that also is the forward pass.

  Differentiating a loss through the returned `F` reuses this pass; `dF` is
  stopped, so its branch costs nothing backward.

  Args:
    primal: the network at `(x / sigma_d, t)`.
    step: the noisy samples and their direction.
  """
  point, tangent = _scaled(step)
  F, dF = jax.jvp(primal, point, tangent)
  return F, jax.lax.stop_gradient(dF)


def by_finite_difference(
  primal: Primal, step: Direction, size: float = 1e-3
) -> tuple[Array, Array]:
  """Returns `(F, dF)` by central differences, for checks and ablations.

  It costs two more forward passes. The error is of order `size^2`, plus the
  rounding over `size`.

  Args:
    primal: the network at `(x / sigma_d, t)`.
    step: the noisy samples and their direction.
    size: how far to go, relative to the rearranged tangent.
  """
  (u, t), (du, dt) = _scaled(step)
  F = primal(u, t)
  ahead, behind = (
    primal(u + size * du, t + size * dt),
    primal(u - size * du, t - size * dt),
  )
  return F, jax.lax.stop_gradient((ahead - behind) / (2 * size))


def consistency_tangent(
  step: Direction, F: Array, dF: Array, r: Array | float, warmup: str = "linear"
) -> Array:
  """Returns `g` before normalisation (Algorithm 1); at `r = 1`, `cos(t) df/dt`.

  Args:
    step: the noisy samples and their direction.
    F: the network's output, `[B, ...]`; its gradient is stopped.
    dF: `cos(t) sin(t) dF/dt`, `[B, ...]`.
    r: the warm-up, from 0 to 1.
    warmup: a name in `WARMUPS`.

  Raises:
    ConfigError: there is no such warm-up.
  """
  x_t, dx_dt, t, sigma_d = step
  F = jax.lax.stop_gradient(F)
  cos, sin = (trigflow.expand(f(t), x_t) for f in (jnp.cos, jnp.sin))
  first = schema.pick(WARMUPS, warmup, "warmup")(cos, sin, r)
  velocity_gap = sigma_d * F - dx_dt
  return -first * velocity_gap - r * (cos * sin * x_t + sigma_d * dF)


def discrete_tangent(
  step: Direction,
  F_fn: Callable[[Array, Array], Array],
  F: Array,
  t_next: Array,
  r: Array | float,
) -> Array:
  """Returns dsCD's `g = cos(t) Delta`, from `t` to `t_next` (Appendix E).

  The sample moves to `t_next` by one DDIM step along `dx_dt`. As `t_next`
  approaches `t` this becomes `consistency_tangent`.

  Args:
    step: the noisy samples and their direction.
    F_fn: the network at `(x / sigma_d, t)`; its gradient is stopped here.
    F: its output at `(x_t / sigma_d, t)`, `[B, ...]`.
    t_next: radians `[B]`, less than `t`.
    r: the warm-up, from 0 to 1.
  """
  x_t, dx_dt, t, sigma_d = step
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
    g: the tangent, `[B, ...]`.
    t: radians `[B]`.
    kind: the name of an entry of `NORMALIZATIONS`.
    c: the paper's constant, 0.1.

  Raises:
    ConfigError: there is no such normalisation.
  """
  return schema.pick(NORMALIZATIONS, kind, "tangent_norm")(g, t, c)


def _by_norm(g: Array, t: Array, c: float) -> Array:
  """Returns `g / (||g|| + c)`, with the norm over the whole sample."""
  del t
  return g / trigflow.expand(diagnostics.norms(g) + c, g)


def _by_rms(g: Array, t: Array, c: float) -> Array:
  """Returns `g / (rms(g) + c)`."""
  del t
  rms = diagnostics.norms(g) / (g[0].size ** 0.5)
  return g / trigflow.expand(rms + c, g)


def _clipped(g: Array, t: Array, c: float) -> Array:
  """Returns `g` of `df/dt` clipped to [-1, 1]."""
  del c
  bound = trigflow.expand(jnp.cos(t), g)
  return jnp.clip(g, -bound, bound)


def _as_it_is(g: Array, t: Array, c: float) -> Array:
  """Returns `g`."""
  del t, c
  return g


# `l2` is the paper's.
NORMALIZATIONS = {
  "l2": _by_norm,
  "rms": _by_rms,
  "clip": _clipped,
  "none": _as_it_is,
}


# The factor of the tangent's first term, of cos(t), sin(t) and r: the paper's,
# and rCM's, which keeps the variance. They are equal at `r = 1`.
WARMUPS = {
  "linear": lambda cos, sin, r: cos**2,
  "variance_exact": lambda cos, sin, r: cos * jnp.sqrt(1 - (r * sin) ** 2),
}
