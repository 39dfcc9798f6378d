"""The TrigFlow diffusion objective (Equation 4 with Equation 25's weighting).

`e^w(t) / D ||sigma_d F(x_t / sigma_d, t) - v_t||^2 - w(t)`, which is EDM2's
uncertainty weighting with `w` for minus the log-variance.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.objectives import diagnostics, weighting
from scm_jax.objectives.point import Point
from scm_jax.objectives.velocity import Velocity


def loss(
  F: Callable,
  w: Callable,
  params: Any,
  point: Point,
  *,
  sigma_d: float,
  adaptive_weighting: bool = True,
  weighting_unit: str = "sample",
  velocity: Velocity | None = None,
) -> tuple[Array, dict[str, Any]]:
  """Computes the loss of one batch and its metrics.

  Args:
    F: `F(params, x, t, cond, *, rngs, train)`, the network function.
    w: `w(params, t)`, the log-weight.
    params: of both.
    point: the batch.
    sigma_d: the data's standard deviation.
    adaptive_weighting: whether `w` is learnt; otherwise it is 0.
    weighting_unit: `sample`; or `pixel`, EDM2's (`weighting.unit_scale`).
    velocity: the teacher that is matched; None learns from the data.

  Returns:
    A scalar and a dict of sums and counts (see `diagnostics`), and `valid`
    `[B]`. A sample whose data, target or output is not finite is left out of
    the loss and of the metrics, and counted. Its data and its target cannot
    spoil the gradient. But if its output overflows inside of `F`, the entries
    of the gradient that depend on it become NaN: zero times infinity.
  """
  x0, z, t, cond, rngs = point
  valid = diagnostics.finite(x0)
  x0 = diagnostics.select(valid, x0)
  x_t = trigflow.interpolate(x0, z, t)
  if velocity is None:
    target = trigflow.data_velocity(x0, z, t)
  else:
    target = jax.lax.stop_gradient(velocity(x_t, t, cond))
    valid &= diagnostics.finite(target)
  output = F(params, x_t / sigma_d, t, cond, rngs=rngs, train=True)
  valid &= diagnostics.finite(output)
  output = diagnostics.select(valid, output)
  squares = jnp.square(sigma_d * output - diagnostics.select(valid, target))
  mse = squares.mean(axis=tuple(range(1, squares.ndim)))
  log_weight = w(params, t) if adaptive_weighting else jnp.zeros_like(t)
  scale = weighting.unit_scale(weighting_unit, x0)
  total, per_sample = weighting.weigh(mse, log_weight, valid, scale)
  return total, jax.lax.stop_gradient(
    {
      "loss": total,
      "mse": diagnostics.mean(valid, mse),
      "output_rms": diagnostics.rms(valid, output),
      "nonfinite_samples": jnp.sum(~valid),
      "valid": valid,
      "by_time": diagnostics.by_time(t, valid, loss=per_sample, mse=mse),
    }
  )
