"""Power-function averages of the parameters (EDM2, arXiv 2312.02696, Sec. 3).

An average at step `n` weighs the parameters of step `m` by `m^gamma`; its width
relative to the training time, `sigma_rel`, names it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def gamma(sigma_rel: float) -> float:
  """The exponent of a relative width (EDM2, Equation 123).

  Solves `sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))`.
  """
  inverse = sigma_rel**-2
  roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
  return float(roots.real.max())


def decay(step: Array, exponent: float) -> Array:
  """`beta = (1 - 1 / step)^(gamma + 1)` of the update that ends `step`."""
  return (1.0 - 1.0 / step.astype(jnp.float32)) ** (exponent + 1.0)


def name(sigma_rel: float) -> str:
  """The key of an average in the state: `0.05` is `"0.050"`."""
  return f"{sigma_rel:.3f}"


def init(params: Any, sigma_rels: Sequence[float]) -> dict[str, Any]:
  """Averages that start as copies of the parameters."""
  return {name(s): jax.tree.map(jnp.copy, params) for s in sigma_rels}


def update(
  averages: dict[str, Any],
  params: Any,
  step: Array,
  sigma_rels: Sequence[float],
) -> dict[str, Any]:
  """The averages after the update that made `params`, step `step` >= 1."""

  def updated(sigma_rel):
    beta = decay(step, gamma(sigma_rel))
    mix = lambda average, new: new + beta * (average - new)
    return jax.tree.map(mix, averages[name(sigma_rel)], params)

  return {name(s): updated(s) for s in sigma_rels}
