"""Velocity functions: the whole of a teacher, as distillation sees it.

A velocity function is `v(x_t, t, cond) -> dx_t/dt`. Ours, an imported network's
and a closed form's in a test are the same to the objectives.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow

Velocity = Callable[[Array, Array, dict[str, Array]], Array]


def unconditional(cond: dict[str, Array], num_classes: int) -> dict[str, Array]:
  """The same condition with "no label" (the label `num_classes`)."""
  return cond | {"label": jnp.full_like(cond["label"], num_classes)}


def guide(F: Callable, num_classes: int, scale: Array | float) -> Callable:
  """Classifier-free guidance `F_u + s (F_c - F_u)` of `F(x, t, cond)`.

  Both branches come from one network that was trained with label dropout
  (Section 5.2). It costs two evaluations.

  Args:
    F: a network with its parameters bound.
    num_classes: the label that stands for "no label".
    scale: `s`, one number or one for each sample `[B]`; 1 is no guidance.
  """

  def guided(x, t, cond):
    conditional = F(x, t, cond)
    free = F(x, t, unconditional(cond, num_classes))
    s = trigflow.expand(jnp.broadcast_to(scale, t.shape), x)
    return free + s * (conditional - free)

  return guided


def from_network(F: Callable, sigma_d: float) -> Velocity:
  """`dx_t/dt = sigma_d F(x_t / sigma_d, t, cond)` (Equation 3)."""
  return lambda x_t, t, cond: sigma_d * F(x_t / sigma_d, t, cond)
