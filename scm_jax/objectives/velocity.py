"""Velocity functions: the whole of a teacher, as distillation sees it.

A velocity function is `v(x_t, t, cond) -> dx_t/dt`. Ours, an imported network's
and a closed form's in a test are the same to the objectives.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.networks import Network

Velocity = Callable[[Array, Array, dict[str, Array]], Array]


def unconditional(cond: dict[str, Array], num_classes: int) -> dict[str, Array]:
  """The same condition with "no label" (the label `num_classes`)."""
  return cond | {"label": jnp.full_like(cond["label"], num_classes)}


def unlabelled(F: Callable, num_classes: int) -> Callable:
  """`F(x, t, cond)` without labels: what classifier-free guidance guides by.

  The network was trained with label dropout (Section 5.2); the label
  `num_classes` stands for "no label".
  """
  return lambda x, t, cond: F(x, t, unconditional(cond, num_classes))


def guide(F: Callable, weak: Callable, scale: Array | float) -> Callable:
  """Guidance `F_w + s (F - F_w)` of `F(x, t, cond)` away from `weak`.

  With `weak` the same network without labels this is classifier-free guidance;
  with a smaller or less trained one it is EDM2's guidance and autoguidance
  (arXiv 2406.02507). Denoisers are affine in `F` with equal coefficients, so
  guiding `F` guides `D`. It costs two evaluations.

  Args:
    F, weak: networks with their parameters bound.
    scale: `s`, one number or one for each sample `[B]`; 1 is no guidance.
  """

  def guided(x, t, cond):
    strong, other = F(x, t, cond), weak(x, t, cond)
    s = trigflow.expand(jnp.broadcast_to(scale, t.shape), x)
    return other + s * (strong - other)

  return guided


def guided(
  network: Network, weak: Network | None, weights: Any, scale: Array | float
) -> Callable:
  """A guided teacher as one `F(x, t, cond)`.

  Args:
    network: the teacher.
    weak: the network that guides it; None is the teacher without labels.
    weights: `Model.weights`: the teacher's parameters, and the other's under
      `guide`.
    scale: as in `guide`.
  """
  F = functools.partial(network.F, weights)
  if weak is None:
    return guide(F, unlabelled(F, network.config.num_classes), scale)
  return guide(F, functools.partial(weak.F, weights["guide"]), scale)


def from_network(F: Callable, sigma_d: float) -> Velocity:
  """`dx_t/dt = sigma_d F(x_t / sigma_d, t, cond)` (Equation 3)."""
  return lambda x_t, t, cond: sigma_d * F(x_t / sigma_d, t, cond)
