"""The sCM objective of Algorithm 1, for training (sCT) and distillation (sCD).

The two differ only in the velocity `dx_t/dt` along which the derivative is
taken: the sample's own, or a teacher's.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.objectives import diagnostics, tangent, weighting
from scm_jax.objectives.point import Point
from scm_jax.objectives.velocity import Velocity


@dataclasses.dataclass(frozen=True)
class Options:
  """Choices of the objective; the defaults are the paper's.

  Attributes:
    derivative: `jvp` (exact), `finite_difference`, or `discrete` (dsCD).
    finite_difference_step: of `finite_difference`.
    discrete_steps: `N` of `discrete`, points of EDM's rho = 7 grid.
    tangent_norm: `l2`, `rms`, `clip` or `none` (`tangent.normalize_tangent`).
    tangent_c: the constant in the normalisation.
    warmup: `linear`, the paper's; or `variance_exact`, rCM's.
    adaptive_weighting: whether `w` is learnt; otherwise it is 0.
    weighting_unit: `sample`, the paper's; or `pixel` (`weighting.unit_scale`).
    prior_weight: `none`, the paper's; or `inverse_sigma`, the further factor
      `1 / (sigma_d tan t)` that some implementations have.
    reduction: `mean`, the paper's division by `D`; or `sum`.
  """

  derivative: str = "jvp"
  finite_difference_step: float = 1e-3
  discrete_steps: int = 1024
  tangent_norm: str = "l2"
  tangent_c: float = 0.1
  warmup: str = "linear"
  adaptive_weighting: bool = True
  weighting_unit: str = "sample"
  prior_weight: str = "none"
  reduction: str = "mean"


class Tangent(NamedTuple):
  """What the pass that takes the tangent gives.

  Attributes:
    output: `F(x_t / sigma_d, t)`.
    g: the tangent before its normalisation.
    dF: `cos(t) sin(t) dF/dt`; zero when the derivative is `discrete`.
  """

  output: Array
  g: Array
  dF: Array


def loss(
  F: Callable,
  w: Callable,
  params: Any,
  velocity: Velocity | None,
  point: Point,
  r: Array | float,
  *,
  sigma_d: float,
  options: Options,
  tangent_F: Callable | None = None,
) -> tuple[Array, dict[str, Any]]:
  """Computes the loss of one batch (Equation 8) and its metrics.

  Args:
    F: `F(params, x, t, cond, *, rngs, train)`, the network function.
    w: `w(params, t)`, the log-weight.
    params: of both.
    velocity: the teacher for sCD; None for sCT.
    point: the batch.
    r: tangent warm-up, `min(1, step / H)`.
    sigma_d: the data's standard deviation.
    options: the choices.
    tangent_F: the same network in another precision, of which the tangent is
      taken, in a pass of its own that is not differentiated. With None one
      pass gives the value and its tangent.

  Returns:
    A scalar and a dict of sums and counts (see `diagnostics`), and `valid`
    `[B]`. A sample whose data, value or tangent is not finite is left out of
    the loss and of the metrics, and counted. Its data and its tangent cannot
    spoil the gradient. But if its value overflows inside of `F`, the entries
    of the gradient that depend on it become NaN: zero times infinity.
  """
  valid = diagnostics.finite(point.x0)
  point = on_grid(point, options, sigma_d)
  point = point._replace(x0=diagnostics.select(valid, point.x0))
  t = point.t
  if tangent_F is None:
    output, g, dF = tangents(
      *(F, params, velocity, point, r), sigma_d=sigma_d, options=options
    )
    valid &= diagnostics.finite(output, g)
  else:
    fixed = jax.lax.stop_gradient(params)
    _, g, dF = tangents(
      *(tangent_F, fixed, velocity, point, r),
      sigma_d=sigma_d,
      options=options,
    )
    # What overflowed here is not shown to the pass that is differentiated.
    valid &= diagnostics.finite(g)
    point = point._replace(
      x0=diagnostics.select(valid, point.x0),
      z=diagnostics.select(valid, point.z),
    )
    output = _value(F, params, point, sigma_d)
    valid &= diagnostics.finite(output)
  g_norm = diagnostics.norms(g)
  g = diagnostics.select(valid, g)
  g = tangent.normalize_tangent(g, t, options.tangent_norm, options.tangent_c)
  output = diagnostics.select(valid, output)
  target = jax.lax.stop_gradient(output + g)
  error = _reduce(jnp.square(output - target), t, sigma_d, options)
  log_weight = w(params, t) if options.adaptive_weighting else jnp.zeros_like(t)
  scale = weighting.unit_scale(options.weighting_unit, point.x0)
  total, per_sample = weighting.weigh(error, log_weight, valid, scale)
  rate = diagnostics.norms(dF) / (jnp.cos(t) * jnp.sin(t))
  return total, jax.lax.stop_gradient(
    {
      "loss": total,
      "tangent_norm": diagnostics.mean(valid, g_norm),
      "output_rms": diagnostics.rms(valid, output),
      "nonfinite_samples": jnp.sum(~valid),
      "valid": valid,
      "by_time": diagnostics.by_time(
        t, valid, loss=per_sample, tangent_norm=g_norm, dF_dt=rate
      ),
    }
  )


def tangents(
  F: Callable,
  params: Any,
  velocity: Velocity | None,
  point: Point,
  r: Array | float,
  *,
  sigma_d: float,
  options: Options,
) -> Tangent:
  """Computes the network's value and its raw tangent, as the options say.

  Args are those of `loss`; the times are on the grid where there is one. The
  gradient of `output` is that of the network; `g` and `dF` have none.
  """
  x0, z, t, cond, rngs = point
  x_t = trigflow.interpolate(x0, z, t)
  if velocity is None:
    dx_dt = trigflow.data_velocity(x0, z, t)
  else:
    dx_dt = jax.lax.stop_gradient(velocity(x_t, t, cond))

  def primal(u, t):
    return F(params, u, t, cond, rngs=rngs, train=True), None

  if options.derivative == "discrete":
    output, _ = primal(x_t / sigma_d, t)
    t_next = _successors(t, options, sigma_d)
    g = tangent.discrete_tangent(
      lambda u, t: primal(u, t)[0],
      *(output, x_t, dx_dt, t, t_next, r, sigma_d),
    )
    return Tangent(output, g, jnp.zeros_like(g))
  derive = tangent.by_jvp
  if options.derivative == "finite_difference":
    step = options.finite_difference_step
    derive = functools.partial(tangent.by_finite_difference, step=step)
  output, dF, _ = derive(primal, x_t, dx_dt, t, sigma_d)
  g = tangent.consistency_tangent(
    *(output, dF, x_t, dx_dt, t, r, sigma_d),
    variance_exact=options.warmup == "variance_exact",
  )
  return Tangent(output, g, dF)


def _value(F, params, point, sigma_d):
  """The network's value alone, to be differentiated."""
  x_t = trigflow.interpolate(point.x0, point.z, point.t)
  rngs = point.rngs
  return F(params, x_t / sigma_d, point.t, point.cond, rngs=rngs, train=True)


def _reduce(squares, t, sigma_d, options):
  """Per-sample squared norm, divided and weighted as options say."""
  axes = tuple(range(1, squares.ndim))
  reduce = jnp.mean if options.reduction == "mean" else jnp.sum
  error = reduce(squares, axis=axes)
  if options.prior_weight == "inverse_sigma":
    error = error / trigflow.time_to_sigma(t, sigma_d)
  return error


def on_grid(point: Point, options: Options, sigma_d: float) -> Point:
  """The batch with its times on the grid, where there is one (dsCD)."""
  if options.derivative != "discrete":
    return point
  grid, t = time_grid(options.discrete_steps, sigma_d), point.t
  return point._replace(t=grid[_places(t, grid)].astype(t.dtype))


def _successors(t, options, sigma_d):
  """The grid points one below those that `on_grid` gives."""
  grid = time_grid(options.discrete_steps, sigma_d)
  return grid[_places(t, grid) - 1].astype(t.dtype)


def _places(t, grid):
  return jnp.clip(jnp.searchsorted(grid, t), 1, grid.size - 1)


def time_grid(
  steps: int,
  sigma_d: float,
  sigma_min: float = 0.002,
  sigma_max: float = trigflow.SIGMA_MAX,
  rho: float = 7.0,
) -> Array:
  """EDM's grid on the circle, `0 = t_0 < ... < t_N` (Appendix E), `[N + 1]`."""
  low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
  sigmas = jnp.linspace(low, high, steps) ** rho
  times = trigflow.sigma_to_time(sigmas, sigma_d)
  return jnp.concatenate([jnp.zeros(1), times])
