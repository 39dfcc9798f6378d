"""The sCM objective of Algorithm 1, for training (sCT) and distillation (sCD).

The two differ only in the velocity `dx_t/dt` along which the derivative is
taken: the sample's own, or a teacher's.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.objectives import diagnostics, tangent, weighting
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


def loss(
  F: Callable,
  w: Callable,
  params: Any,
  velocity: Velocity | None,
  x0: Array,
  z: Array,
  t: Array,
  cond: dict[str, Array],
  r: Array | float,
  *,
  sigma_d: float,
  options: Options,
  rngs: dict[str, Array] | None = None,
) -> tuple[Array, dict[str, Any]]:
  """Loss of one batch (Equation 8) and its metrics.

  Args:
    F: `F(params, x, t, cond, *, rngs, train)`, the network function.
    w: `w(params, t)`, the log-weight.
    params: of both.
    velocity: the teacher for sCD; None for sCT.
    x0: data `[B, ...]`.
    z: noise from `N(0, sigma_d^2 I)`, like `x0`.
    t: radians `[B]`; snapped to the grid when the derivative is `discrete`.
    cond: condition of the network.
    r: tangent warm-up, `min(1, step / H)`.
    sigma_d: the data's standard deviation.
    options: the choices.
    rngs: random streams of the network; value and tangent share their masks.

  Returns:
    A scalar and a dict of sums and counts (see `diagnostics`). Samples with a
    value or tangent that is not finite are left out and counted.
  """
  valid = diagnostics.finite(x0)
  x0 = diagnostics.select(valid, x0)
  t, t_next = _times(t, sigma_d, options)
  x_t = trigflow.interpolate(x0, z, t)
  if velocity is None:
    dx_dt = trigflow.data_velocity(x0, z, t)
  else:
    dx_dt = jax.lax.stop_gradient(velocity(x_t, t, cond))

  def primal(u, t):
    output = F(params, u, t, cond, rngs=rngs, train=True)
    return output, w(params, t)

  output, g, log_weight, dF = _tangent(
    primal, x_t, dx_dt, t, t_next, r, sigma_d, options
  )
  valid &= diagnostics.finite(output, g)
  g_norm = diagnostics.norms(g)
  g = diagnostics.select(valid, g)
  g = tangent.normalize_tangent(g, t, options.tangent_norm, options.tangent_c)
  output = diagnostics.select(valid, output)
  target = jax.lax.stop_gradient(output + g)
  error = _reduce(jnp.square(output - target), t, sigma_d, options)
  if not options.adaptive_weighting:
    log_weight = jnp.zeros_like(t)
  scale = weighting.unit_scale(options.weighting_unit, x0)
  total, per_sample = weighting.weigh(error, log_weight, valid, scale)
  rate = diagnostics.norms(dF) / (jnp.cos(t) * jnp.sin(t))
  return total, jax.lax.stop_gradient(
    {
      "loss": total,
      "tangent_norm": diagnostics.mean(valid, g_norm),
      "output_rms": diagnostics.rms(valid, output),
      "nonfinite_samples": jnp.sum(~valid),
      "by_time": diagnostics.by_time(
        t, valid, loss=per_sample, tangent_norm=g_norm, dF_dt=rate
      ),
    }
  )


def _tangent(primal, x_t, dx_dt, t, t_next, r, sigma_d, options):
  """The output, raw `g`, log-weight and `cos sin dF/dt` as options say."""
  exact = options.warmup == "variance_exact"
  if options.derivative == "discrete":
    output, log_weight = primal(x_t / sigma_d, t)
    g = tangent.discrete_tangent(
      lambda u, t: primal(u, t)[0],
      *(output, x_t, dx_dt, t, t_next, r, sigma_d),
    )
    return output, g, log_weight, jnp.zeros_like(g)
  derive = tangent.by_jvp
  if options.derivative == "finite_difference":
    step = options.finite_difference_step
    derive = functools.partial(tangent.by_finite_difference, step=step)
  output, dF, log_weight = derive(primal, x_t, dx_dt, t, sigma_d)
  g = tangent.consistency_tangent(
    output, dF, x_t, dx_dt, t, r, sigma_d, variance_exact=exact
  )
  return output, g, log_weight, dF


def _reduce(squares, t, sigma_d, options):
  """Per-sample squared norm, divided and weighted as options say."""
  axes = tuple(range(1, squares.ndim))
  reduce = jnp.mean if options.reduction == "mean" else jnp.sum
  error = reduce(squares, axis=axes)
  if options.prior_weight == "inverse_sigma":
    error = error / trigflow.time_to_sigma(t, sigma_d)
  return error


def _times(t, sigma_d, options):
  """The times, and for dsCD the grid points they and their successors are."""
  if options.derivative != "discrete":
    return t, t
  grid = time_grid(options.discrete_steps, sigma_d)
  index = jnp.clip(jnp.searchsorted(grid, t), 1, grid.size - 1)
  return grid[index].astype(t.dtype), grid[index - 1].astype(t.dtype)


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
