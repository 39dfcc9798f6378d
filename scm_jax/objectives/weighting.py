"""Adaptive weighting: `e^w m - w` for each sample, averaged over the batch."""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array

from scm_jax.objectives.spec import Options, Student

# How often `w` counts in the loss of a sample of some shape: once (Equation 8);
# or once for each of its `D` numbers, over which EDM2 sums. Adam's updates are
# the same; RAdam's first ones are `D` times as large, and throw `w` far off.
UNITS = {"sample": lambda shape: 1, "pixel": math.prod}


def log_weight(
  student: Student, params: Any, options: Options, t: Array, *ends: Array
) -> Array:
  """Returns the adaptive log-weight `w` of each sample, `[B]`, or 0.

  The times are `t`, and where jumps end at other times than 0, these.
  """
  if not options.adaptive_weighting:
    return jnp.zeros_like(t)
  return student.w(params, t, *ends)


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
    scale: of the whole loss; see `UNITS`.

  Returns:
    The scalar loss and the per-sample losses `[B]`.
  """
  per_sample = scale * (jnp.exp(log_weight) * error - log_weight)
  kept = jnp.where(valid, per_sample, 0.0)
  return kept.sum() / jnp.maximum(valid.sum(), 1), per_sample
