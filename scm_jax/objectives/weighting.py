"""Adaptive weighting: `e^w m - w` for each sample, averaged over the batch."""

import jax.numpy as jnp
from jax import Array


def weigh(error: Array, log_weight: Array, valid: Array) -> tuple[Array, Array]:
  """Weighs per-sample errors (Equation 8).

  At the optimum `e^w` is the inverse of the expected error at that time, so
  every time contributes alike (Appendix D).

  Args:
    error: `[B]`, the squared norm over `D`.
    log_weight: `w(t)`, `[B]`.
    valid: `[B]`, which samples count; the others add nothing, not even to the
      divisor, so that a masked sample does not dilute the rest.

  Returns:
    The scalar loss and the per-sample losses `[B]`.
  """
  per_sample = jnp.exp(log_weight) * error - log_weight
  kept = jnp.where(valid, per_sample, 0.0)
  return kept.sum() / jnp.maximum(valid.sum(), 1), per_sample
