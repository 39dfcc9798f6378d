"""The sCM objective (Algorithm 1), for training (sCT) and distillation (sCD).

The two differ only in the velocity `dx_t/dt` along which the derivative is
taken: the sample's own, or a teacher's.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import schema, trigflow
from scm_jax.objectives import diagnostics, spec, tangent, weighting
from scm_jax.objectives.point import Point
from scm_jax.objectives.spec import Spec, Student
from scm_jax.objectives.tangent import Direction
from scm_jax.objectives.velocity import Velocity


@dataclasses.dataclass(frozen=True)
class Options(spec.Options):
  """Options of sCM; the defaults are the paper's.

  Attributes:
    warmup_steps: `H`, steps over which the tangent's second term is warmed up.
    warmup: `linear`, the paper's; or `variance_exact`, rCM's
      (`tangent.WARMUPS`).
    derivative: how the network is differentiated: `jvp` (exactly),
      `finite_difference`, or `discrete` (dsCD, Appendix E).
    finite_difference_step: the step of `finite_difference`.
    discrete_steps: `N` of `discrete`, points of EDM's rho = 7 grid.
    tangent_norm: how the tangent is normalised (`tangent.NORMALIZATIONS`).
    tangent_c: the constant of the normalisation.
    tangent_dtype: the type in which the network and the teacher compute where
      the tangent is taken; "" is the network's, in one pass with the value.
      Otherwise the tangent has a pass of its own.
    tangent_precision: the precision of the products in that pass, as in
      `NetworkConfig`.
    prior_weight: `none`, the paper's; or `inverse_sigma`, the further factor
      `1 / (sigma_d tan t)` that some implementations have.
    reduction: `mean`, the paper's division by `D`; or `sum`.
  """

  warmup_steps: int = 10_000
  warmup: Literal["linear", "variance_exact"] = "linear"
  derivative: Literal["jvp", "finite_difference", "discrete"] = "jvp"
  finite_difference_step: float = 1e-3
  discrete_steps: int = 1024
  tangent_norm: Literal["l2", "rms", "clip", "none"] = "l2"
  tangent_c: float = 0.1
  tangent_dtype: Literal["", "float32", "bfloat16", "float16", "float64"] = ""
  tangent_precision: Literal["highest", "high", "default"] = "highest"
  prior_weight: Literal["none", "inverse_sigma"] = "none"
  reduction: Literal["mean", "sum"] = "mean"

  @property
  def tangent_pass(self) -> tuple[str, str] | None:
    """Type and precision of the tangent's own pass; None if it has none."""
    if not self.tangent_dtype:
      return None
    return self.tangent_dtype, self.tangent_precision


class Tangent(NamedTuple):
  """The network's value and its tangent.

  Attributes:
    output: `F(x_t / sigma_d, t)`, `[B, ...]`.
    g: the tangent before its normalisation, `[B, ...]`.
    dF: `cos(t) sin(t) dF/dt`; zero when the derivative is `discrete`.
  """

  output: Array
  g: Array
  dF: Array


def loss(
  student: Student,
  params: Any,
  point: Point,
  velocity: Velocity | None,
  options: Options,
  step: Array | float,
) -> tuple[Array, dict[str, Any]]:
  """Computes the loss of one batch (Equation 8) and its metrics.

  Args:
    student: the network that is trained.
    params: its parameters.
    point: the batch.
    velocity: the teacher for sCD; None for sCT.
    options: the choices.
    step: updates done, for the tangent's warm-up.

  Returns:
    A scalar and a dict of sums and counts (see `diagnostics`), and `valid`
    `[B]`. A sample whose data, value or tangent is not finite is left out of
    the loss and of the metrics, and counted. Its data and its tangent cannot
    spoil the gradient. But if its value overflows inside of `F`, the entries
    of the gradient that depend on it become NaN: zero times infinity.
  """
  valid = diagnostics.finite(point.x0)
  point = on_grid(point, options)
  point = point._replace(x0=diagnostics.select(valid, point.x0))
  t = point.t
  if student.tangent_F is None:
    output, g, dF = tangents(student.F, params, point, velocity, options, step)
    valid &= diagnostics.finite(output, g)
  else:
    fixed = jax.lax.stop_gradient(params)
    _, g, dF = tangents(
      student.tangent_F, fixed, point, velocity, options, step
    )
    # What overflowed here is not shown to the pass that is differentiated.
    valid &= diagnostics.finite(g)
    point = point._replace(
      x0=diagnostics.select(valid, point.x0),
      z=diagnostics.select(valid, point.z),
    )
    x_t = trigflow.interpolate(point.x0, point.z, t)
    output = spec.evaluate(student.F, params, x_t / options.sigma_d, t, point)
    valid &= diagnostics.finite(output)
  g_norm = diagnostics.norms(g)
  g = diagnostics.select(valid, g)
  g = tangent.normalize_tangent(g, t, options.tangent_norm, options.tangent_c)
  output = diagnostics.select(valid, output)
  target = jax.lax.stop_gradient(output + g)
  error = _reduce(jnp.square(output - target), t, options)
  log_weight = jnp.zeros_like(t)
  if options.adaptive_weighting:
    log_weight = student.w(params, t)
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
  point: Point,
  velocity: Velocity | None,
  options: Options,
  step: Array | float,
) -> Tangent:
  """Computes the network's value and its raw tangent, as the options say.

  The gradient of the value is the network's; the tangent has none.

  Args:
    F: the network function (see `Student`).
    params: its parameters.
    point: the batch, with its times on the grid where there is one.
    velocity: the teacher for sCD; None for sCT.
    options: the choices.
    step: updates done, for the tangent's warm-up.
  """
  t, sigma_d = point.t, options.sigma_d
  x_t = trigflow.interpolate(point.x0, point.z, t)
  if velocity is None:
    dx_dt = trigflow.data_velocity(point.x0, point.z, t)
  else:
    dx_dt = jax.lax.stop_gradient(velocity(x_t, t, point.cond))
  primal = lambda u, t: spec.evaluate(F, params, u, t, point)
  take = schema.pick(DERIVATIVES, options.derivative, "derivative")
  r = jnp.minimum(1.0, step / max(options.warmup_steps, 1))
  return take(primal, Direction(x_t, dx_dt, t, sigma_d), r, options)


def raw_tangent(
  student: Student,
  params: Any,
  point: Point,
  velocity: Velocity | None,
  options: Options,
  step: Array | float,
) -> Array:
  """Returns the tangent before its normalisation, with `loss`'s arguments."""
  point = on_grid(point, options)
  F = student.tangent_F or student.F
  return tangents(F, params, point, velocity, options, step).g


def _by_jvp(primal, direction, r, options) -> Tangent:
  """Takes the tangent of the exact derivative."""
  output, dF = tangent.by_jvp(primal, direction)
  g = tangent.consistency_tangent(direction, output, dF, r, options.warmup)
  return Tangent(output, g, dF)


def _by_finite_difference(primal, direction, r, options) -> Tangent:
  """Takes the tangent of the derivative by central differences."""
  size = options.finite_difference_step
  output, dF = tangent.by_finite_difference(primal, direction, size)
  g = tangent.consistency_tangent(direction, output, dF, r, options.warmup)
  return Tangent(output, g, dF)


def _discrete(primal, direction, r, options) -> Tangent:
  """Takes dsCD's tangent, over one step of the grid."""
  x_t, _, t, sigma_d = direction
  output = primal(x_t / sigma_d, t)
  t_next = _successors(t, options)
  g = tangent.discrete_tangent(direction, primal, output, t_next, r)
  return Tangent(output, g, jnp.zeros_like(g))


DERIVATIVES = {
  "jvp": _by_jvp,
  "finite_difference": _by_finite_difference,
  "discrete": _discrete,
}
# Passes over the network's weights before the backward pass, by derivative.
_FORWARDS = {"jvp": 1, "finite_difference": 3, "discrete": 2}


def _reduce(squares: Array, t: Array, options: Options) -> Array:
  """Returns each sample's squared norm, divided and weighted."""
  axes = tuple(range(1, squares.ndim))
  reduce = schema.pick(REDUCTIONS, options.reduction, "reduction")
  factor = schema.pick(PRIORS, options.prior_weight, "prior_weight")
  return factor(reduce(squares, axis=axes), t, options.sigma_d)


REDUCTIONS = {"mean": jnp.mean, "sum": jnp.sum}
PRIORS = {
  "none": lambda error, t, sigma_d: error,
  "inverse_sigma": lambda error, t, sigma_d: (
    error / trigflow.time_to_sigma(t, sigma_d)
  ),
}


def on_grid(point: Point, options: Options) -> Point:
  """Returns the batch with its times on the grid, where there is one (dsCD)."""
  if options.derivative != "discrete":
    return point
  grid, t = time_grid(options.discrete_steps, options.sigma_d), point.t
  return point._replace(t=grid[_places(t, grid)].astype(t.dtype))


def _successors(t: Array, options: Options) -> Array:
  """Returns the grid points one below those that `on_grid` gives."""
  grid = time_grid(options.discrete_steps, options.sigma_d)
  return grid[_places(t, grid) - 1].astype(t.dtype)


def _places(t: Array, grid: Array) -> Array:
  """Returns the index of the first grid point that is not below a time."""
  return jnp.clip(jnp.searchsorted(grid, t), 1, grid.size - 1)


def time_grid(
  steps: int,
  sigma_d: float,
  sigma_min: float = 0.002,
  sigma_max: float = trigflow.SIGMA_MAX,
  rho: float = 7.0,
) -> Array:
  """Returns EDM's grid on the circle, `0 = t_0 < ... < t_N` (Appendix E).

  Args:
    steps: `N`.
    sigma_d: the data's standard deviation.
    sigma_min: noise level of `t_1`.
    sigma_max: noise level of `t_N`.
    rho: exponent of the grid.

  Returns:
    Radians `[N + 1]`.
  """
  low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
  sigmas = jnp.linspace(low, high, steps) ** rho
  times = trigflow.sigma_to_time(sigmas, sigma_d)
  return jnp.concatenate([jnp.zeros(1), times])


SCT = Spec(
  label="sCT",
  color="#D55E00",
  marker="D",
  description="a consistency model trained from data (sCT)",
  kind="consistency",
  options=Options,
  loss=loss,
  forwards=lambda options: _FORWARDS[options.derivative],
  tangent=raw_tangent,
)
SCD = dataclasses.replace(
  SCT,
  label="sCD",
  color="#0072B2",
  marker="o",
  description="a consistency model distilled from a diffusion teacher (sCD)",
  asks_teacher=spec.always,
  takes_guidance=lambda options: options.guidance == "sampled",
)
