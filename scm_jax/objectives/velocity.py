"""Velocity functions: all that distillation asks of a teacher.

A velocity function is `v(x_t, t, cond) -> dx_t/dt`. To the objectives it is the
same whether it comes from our own network, an imported one, or a closed form.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.networks import Network
from scm_jax.objectives.diagnostics import select

SLACK = 1e-4  # relative, of the ends of an interval of noise levels
Velocity = Callable[[Array, Array, dict[str, Array]], Array]


def unconditional(cond: dict[str, Array], num_classes: int) -> dict[str, Array]:
  """Returns a condition with "no label" (the label `num_classes`)."""
  return cond | {"label": jnp.full_like(cond["label"], num_classes)}


def unlabelled(F: Callable, num_classes: int) -> Callable:
  """Returns `F(x, t, cond)` without labels, for classifier-free guidance.

  The network must have been trained with label dropout (Section 5.2); the label
  `num_classes` stands for "no label".
  """
  return lambda x, t, cond: F(x, t, unconditional(cond, num_classes))


def is_guided(t: Array, interval: tuple[float, ...], sigma_d: float) -> Array:
  """Returns which of the times `[B]` are guided, bools `[B]`.

  Guidance in a limited interval (arXiv 2404.07724) leaves the other times as
  they are. `interval` is the lowest and the highest noise level `sigma` that
  are guided; () is all.
  """
  if not interval:
    return jnp.ones_like(t, bool)
  # A noise level that was converted to a time and back belongs to its interval.
  low, high = interval[0] * (1 - SLACK), interval[1] * (1 + SLACK)
  sigma = trigflow.time_to_sigma(t, sigma_d)
  return (low <= sigma) & (sigma <= high)


def guide(
  F: Callable,
  weak: Callable,
  scale: Array | float,
  where: Callable[[Array], Array] | None = None,
) -> Callable:
  """Returns `F(x, t, cond)` guided away from `weak`, `F_w + s (F - F_w)`.

  With `weak` the same network without labels this is classifier-free guidance;
  with a smaller or less trained one it is EDM2's guidance and autoguidance
  (arXiv 2406.02507). Denoisers are affine in `F` with equal coefficients, so
  guiding `F` guides `D`. It costs two evaluations.

  Args:
    F: the network that is guided, with its parameters bound.
    weak: the network that it is guided away from, likewise bound.
    scale: `s`, one number, one for each sample `[B]`, or one for each channel,
      `[B, 1, 1, C]` or `[1, 1, 1, C]`; 1 is no guidance.
    where: gives which of the times `[B]` are guided; None is all.
  """

  def guided(x, t, cond):
    strong, other = F(x, t, cond), weak(x, t, cond)
    s = jnp.asarray(scale)
    if s.ndim < 2:
      s = trigflow.expand(jnp.broadcast_to(s, t.shape), x)
    result = other + s * (strong - other)
    return select(where(t), result, strong) if where else result

  return guided


def guided(
  network: Network,
  weak: Network | None,
  weights: Any,
  scale: Array | float,
  interval: tuple[float, ...] = (),
) -> Callable:
  """Returns a guided teacher as one `F(x, t, cond)`.

  Args:
    network: the teacher.
    weak: the network that guides it; None is the teacher without labels.
    weights: the teacher's parameters, and those of the network that guides it
      under `guide`.
    scale: see `guide`.
    interval: the noise levels that are guided, see `is_guided`.
  """
  F, config = functools.partial(network.F, weights), network.config
  inside = lambda t: is_guided(t, interval, config.sigma_d)
  where = inside if interval else None
  if weak is None:
    return guide(F, unlabelled(F, config.num_classes), scale, where)
  return guide(F, functools.partial(weak.F, weights["guide"]), scale, where)


def guide_sample(
  v: Array, own: Array, weak: Array, scale: Array | float, omega: float
) -> Array:
  """Returns samples' velocities, guided by the network's own (MeanFlow).

  That is `omega v + kappa own + (1 - omega - kappa) weak` with `kappa = 1 -
  omega / scale` (arXiv 2505.13447, Appendix B). Where the network has learnt it
  as its own velocity, the mean is `weak + scale (v - weak)`.

  Args:
    v: the samples' velocities `[B, ...]`.
    own: the network's, with their labels.
    weak: the network's, without labels.
    scale: one number or one for each sample `[B]`; 1 is no guidance.
    omega: the part of the sample's velocity, which is the noise of the result.
  """
  ratio = omega / trigflow.expand(jnp.broadcast_to(scale, v.shape[:1]), v)
  return omega * v + (1 - ratio) * own + (ratio - omega) * weak


def from_network(F: Callable, sigma_d: float) -> Velocity:
  """Returns `dx_t/dt = sigma_d F(x_t / sigma_d, t, cond)` (Equation 3)."""
  return lambda x_t, t, cond: sigma_d * F(x_t / sigma_d, t, cond)
