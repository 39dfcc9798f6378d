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
from scm_jax.objectives.velocity import Velocity


def loss(
  F: Callable,
  w: Callable,
  params: Any,
  x0: Array,
  z: Array,
  t: Array,
  cond: dict[str, Array],
  *,
  sigma_d: float,
  adaptive_weighting: bool = True,
  weighting_unit: str = "sample",
  velocity: Velocity | None = None,
  rngs: dict[str, Array] | None = None,
) -> tuple[Array, dict[str, Any]]:
  """Loss of one batch and its metrics.

  Args:
    F: `F(params, x, t, cond, *, rngs, train)`, the network function.
    w: `w(params, t)`, the log-weight.
    params: of both.
    x0: data `[B, ...]`.
    z: noise from `N(0, sigma_d^2 I)`, like `x0`.
    t: radians `[B]`.
    cond: condition of the network.
    sigma_d: the data's standard deviation.
    adaptive_weighting: whether `w` is learnt; otherwise it is 0.
    weighting_unit: `sample`; or `pixel`, EDM2's (`weighting.unit_scale`).
    velocity: the teacher that is matched; None learns from the data.
    rngs: random streams of the network, for dropout.

  Returns:
    A scalar and a dict of sums and counts (see `diagnostics`). Samples that
    are not finite are left out and counted.
  """
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
      "by_time": diagnostics.by_time(t, valid, loss=per_sample, mse=mse),
    }
  )
