"""Adaptive weighting: `e^w m - w` for each sample, averaged over the batch."""

import math

import jax.numpy as jnp
from jax import Array

from scm_jax import schema


def weigh(
  error: Array, log_weight: Array, valid: Array, scale: float = 1.0
) -> tuple[Array, Array]:
  """Weighs per-sample errors (Equation 8).

  At the optimum `e^w` is the inverse of the expected error at that time, so
  every time contributes alike (Appendix D).

  Args:
    error: `[B]`, the squared norm over `D`.
    log_weight: `w(t)`, `[B]`.
    valid: `[B]`, which samples count; the others add nothing, not even to the
      divisor, so that a masked sample does not dilute the rest.
    scale: of the whole loss; see `unit_scale`.

  Returns:
    The scalar loss and the per-sample losses `[B]`.
  """
  per_sample = scale * (jnp.exp(log_weight) * error - log_weight)
  kept = jnp.where(valid, per_sample, 0.0)
  return kept.sum() / jnp.maximum(valid.sum(), 1), per_sample


def unit_scale(unit: str, x0: Array) -> int:
  """Returns how often `w` counts in one sample's loss.

  Args:
    unit: the name of an entry of `UNITS`: `sample`, once (Equation 8); or
      `pixel`, once for each of the `D` numbers of a sample, over which EDM2
      sums. Adam's updates are the same; RAdam's first ones are `D` times as
      large, and throw `w` far off.
    x0: data `[B, ...]`.

  Raises:
    ConfigError: there is no such unit.
  """
  return schema.pick(UNITS, unit, "weighting_unit")(x0.shape[1:])


UNITS = {"sample": lambda shape: 1, "pixel": math.prod}
