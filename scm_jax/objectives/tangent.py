"""The tangent `g = a df/dt` of a consistency model or flow map `f`.

`f(x_t, t, s) = cos(D) x_t - sin(D) sigma_d F(x_t / sigma_d, t, s)` is the jump
from `t` to `s`, with `D = t - s`; a consistency model's ends at `s = 0`. Along
a velocity `v`, with `s` fixed,

  df/dt = -cos(D) (sigma_d F - v) - sin(D) (x_t + sigma_d dF/dt).

sCM's scale `a` is `cos(t)` (Algorithm 1); those of other methods are in
`SCALES`. `dF` throughout is the rearranged derivative `a sin(D) dF/dt` (Section
5.1), of `F` as a function of `(x_t / sigma_d, t)`. The paper prints `(cos t sin
t dx_t/dt, cos t sin t sigma_d)` as its tangent, which yields `sigma_d` times
that; here `sigma_d` stands where it is used.
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


class Jump(NamedTuple):
  """From where to where a sample jumps, and how its tangent is scaled.

  Attributes:
    t: radians `[B]`.
    sigma_d: the data's standard deviation.
    s: the time at which the jump ends, radians `[B]`; None is 0.
    scale: the scale `a`, a name in `SCALES`.
    kappa: `sigma_d` over the standard deviation of the noise of the rectified
      flow in whose coordinates a scale is published.
  """

  t: Array
  sigma_d: float
  s: Array | None = None
  scale: str = "cos"
  kappa: float = 1.0

  @property
  def span(self) -> Array:
    """The length of the jump, `D = t - s`, `[B]`."""
    return self.t if self.s is None else self.t - self.s

  @property
  def a(self) -> Array:
    """The scale of the tangent, `[B]`."""
    return schema.pick(SCALES, self.scale, "tangent_scale")(self)

  @property
  def radii(self) -> tuple[Array, Array]:
    """`c_t = cos(t) + kappa sin(t)` and `c_s`, `[B]`.

    A rectified flow's sample is `x_t / c_t`, its time `kappa sin(t) / c_t`.
    """
    s = jnp.zeros_like(self.t) if self.s is None else self.s
    radius = lambda t: jnp.cos(t) + self.kappa * jnp.sin(t)
    return radius(self.t), radius(s)


class Direction(NamedTuple):
  """Noisy samples and the direction in which their trajectories go.

  Attributes:
    x_t: the noisy samples, `[B, ...]`.
    dx_dt: their velocity `v`, like `x_t`.
    jump: their times.
  """

  x_t: Array
  dx_dt: Array
  jump: Jump

  def wide(self, numbers: Array) -> Array:
    """Returns one number a sample so that it broadcasts against `x_t`."""
    return trigflow.expand(numbers, self.x_t)


def _scaled(step: Direction) -> tuple[tuple, tuple]:
  """Returns `(x_t / sigma_d, t)` and the rearranged tangent there."""
  jump = step.jump
  scale = jump.a * jnp.sin(jump.span)
  point = step.x_t / jump.sigma_d, jump.t
  return point, (step.wide(scale) * step.dx_dt / jump.sigma_d, scale)


def by_jvp(primal: Primal, step: Direction) -> tuple[Array, Array]:
  """Returns `(F, dF)` exactly, by the pass that also is the forward pass.

  Differentiating a loss through the returned `F` reuses this pass; `dF` is
  stopped, so its branch costs nothing backward.
  """
  point, tangent = _scaled(step)
  F, dF = jax.jvp(primal, point, tangent)
  return F, jax.lax.stop_gradient(dF)


def by_finite_difference(
  primal: Primal, step: Direction, size: float = 1e-3
) -> tuple[Array, Array]:
  """Returns `(F, dF)` by central differences, for checks and ablations.

  It costs two more forward passes. The error is of order `size^2`, plus the
  rounding over `size`, by which the rearranged tangent is multiplied.
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
  """Returns `g` before normalisation; at `r = 1` it is `a df/dt`.

  Args:
    step: the noisy samples and their direction.
    F: the network's output, `[B, ...]`; its gradient is stopped.
    dF: `a sin(D) dF/dt`, `[B, ...]`.
    r: the warm-up, from 0 to 1.
    warmup: a name in `WARMUPS`.

  Raises:
    ConfigError: there is no such warm-up.
  """
  jump, wide = step.jump, step.wide
  F = jax.lax.stop_gradient(F)
  first = jump.a * schema.pick(WARMUPS, warmup, "warmup")(jump, r)
  second = jump.a * jnp.sin(jump.span)
  velocity_gap = jump.sigma_d * F - step.dx_dt
  return -wide(first) * velocity_gap - r * (
    wide(second) * step.x_t + jump.sigma_d * dF
  )


def discrete_tangent(
  step: Direction,
  F_fn: Callable[[Array, Array], Array],
  F: Array,
  t_next: Array,
  r: Array | float,
) -> Array:
  """Returns dsCD's `g = a Delta`, from `t` to `t_next` (Appendix E).

  The sample moves to `t_next` by one DDIM step along `dx_dt`. As `t_next`
  approaches `t` this becomes `consistency_tangent`. At `r = 1` it is `a` times
  the difference of the jumps from the two points, over `sin(t - t_next)`.

  Args:
    step: the noisy samples and their direction.
    F_fn: the network at `(x / sigma_d, t)`; its gradient is stopped here.
    F: its output at `(x_t / sigma_d, t)`, `[B, ...]`.
    t_next: radians `[B]`, less than `t` and not less than `s`.
    r: the warm-up, from 0 to 1.
  """
  x_t, dx_dt, jump = step
  sigma_d = jump.sigma_d
  F = jax.lax.stop_gradient(F)
  delta = step.wide(jump.t - t_next)
  x_next = jnp.cos(delta) * x_t - jnp.sin(delta) * dx_dt
  F_next = jax.lax.stop_gradient(F_fn(x_next / sigma_d, t_next))
  change = sigma_d * (jnp.cos(delta) * F - F_next) / jnp.sin(delta)
  rest = jump._replace(t=t_next).span
  cos_next, sin_next = (step.wide(f(rest)) for f in (jnp.cos, jnp.sin))
  difference = -cos_next * (sigma_d * F - dx_dt) - r * sin_next * (x_t + change)
  return step.wide(jump.a) * difference


def normalize_tangent(g: Array, jump: Jump, kind: str, c: float) -> Array:
  """Bounds the tangent (Section 4.2).

  Args:
    g: the tangent, `[B, ...]`.
    jump: its times.
    kind: the name of an entry of `NORMALIZATIONS`.
    c: the paper's constant, 0.1.

  Raises:
    ConfigError: there is no such normalisation.
  """
  return schema.pick(NORMALIZATIONS, kind, "tangent_norm")(g, jump, c)


def _by_rms(g: Array, jump: Jump, c: float) -> Array:
  """Returns `g / (rms(g) + c)`."""
  del jump
  rms = diagnostics.norms(g) / (g[0].size ** 0.5)
  return g / trigflow.expand(rms + c, g)


def _pseudo_huber(g: Array, jump: Jump, c: float) -> Array:
  """Returns the gradient of `sqrt(||g||^2 + c^2)` (iCT, arXiv 2310.14189)."""
  del jump
  return g / trigflow.expand(jnp.hypot(diagnostics.norms(g), c), g)


def _clipped(g: Array, jump: Jump, c: float) -> Array:
  """Returns `g` of `df/dt` clipped to [-1, 1]."""
  del c
  bound = trigflow.expand(jnp.abs(jump.a), g)
  return jnp.clip(g, -bound, bound)


def _relaxed(g: Array, jump: Jump, c: float) -> Array:
  """Returns `g` of an average velocity's error clipped to [-1, 1], in part.

  The velocity is in units of the noise's deviation; the part is `1 - sqrt(1 -
  tau)`, with a rectified flow's time `tau` (FACM, arXiv 2507.03738).
  """
  del c
  radius = jump.radii[0]
  bound = trigflow.expand(1 / radius, g)
  # The cosine of the float32 that is next to pi/2 is negative.
  part = 1 - jnp.sqrt(jnp.maximum(jnp.cos(jump.t), 0.0) / radius)
  return trigflow.expand(part, g) * jnp.clip(g, -bound, bound)


# `l2` is the paper's, with the norm over the whole sample.
NORMALIZATIONS = {
  "l2": lambda g, jump, c: g / trigflow.expand(diagnostics.norms(g) + c, g),
  "rms": _by_rms,
  "pseudo_huber": _pseudo_huber,
  "clip": _clipped,
  "relaxed": _relaxed,
  "none": lambda g, jump, c: g,
  # The loss divides by what its weight expects.
  "expected": lambda g, jump, c: g,
}


# The factor of the tangent's first term, by which `a (sigma_d F - v)` is
# multiplied: the paper's; rCM's of 2025, which keeps the variance; and AYF's,
# which warms up in the coordinates of a rectified flow. They are equal at `r =
# 1`.
WARMUPS = {
  "linear": lambda jump, r: jnp.cos(jump.span),
  "variance_exact": lambda jump, r: jnp.sqrt(1 - (r * jnp.sin(jump.span)) ** 2),
  "rectified_flow": lambda jump, r: (
    (1 - r) * jump.radii[1] / jump.radii[0] + r * jnp.cos(jump.span)
  ),
}

# The scale `a`: sCM's; that of AYF's EMD loss (arXiv 2506.14603) and that of
# MeanFlow's loss of the average velocity (arXiv 2505.13447), both published in
# the coordinates of a rectified flow; and `D / (sigma_d sin D)`, at which `g`
# is the change of `F` that makes the jump consistent with a first step.
SCALES = {
  "cos": lambda jump: jnp.cos(jump.span),
  "ayf": lambda jump: jump.radii[0] ** 2 / (jump.kappa * jump.radii[1]),
  "meanflow": lambda jump: jump.radii[0] / (jump.sigma_d * jump.radii[1]),
  "average": lambda jump: 1 / (jump.sigma_d * jnp.sinc(jump.span / jnp.pi)),
}
