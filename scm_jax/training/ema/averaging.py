"""EMAs of the parameters: power functions (EDM2) and half-lives (EDM).

A number names an EMA. Below 1 it is the relative width `sigma_rel` of a power
function (EDM2, arXiv 2312.02696, Section 3.1): at step `n`, the parameters of
step `m <= n` weigh as `m^gamma`. From 1 on it is the half-life in images of an
exponential average, as in EDM's CIFAR-10 runs (arXiv 2206.00364, Table 8).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax.defaults import Run
from scm_jax.errors import ConfigError

# The relative width of the plain mean (gamma = 0); wider ones favour the start.
MAX_SIGMA_REL = 12**-0.5


def check(config: Run) -> None:
  """Raises ConfigError if the EMAs that a config names cannot be kept."""
  if not config.ema:
    raise ConfigError("config.ema is empty; name an EMA, such as 0.05")
  for ema in config.ema:
    check_ema(ema)
  names = [name(ema) for ema in config.ema]
  if len(set(names)) < len(names):
    raise ConfigError(f"config.ema names an EMA twice: {', '.join(names)}")
  if config.snapshot_every and not relative_widths(config):
    raise ConfigError(
      "config.snapshot_every keeps EMAs of a relative width, but config.ema "
      "has half-lives only; add a width, such as 0.05"
    )


def check_ema(ema: float) -> None:
  """Raises ConfigError for a number that names no EMA."""
  if not 0 < ema <= MAX_SIGMA_REL and not 1 <= ema < math.inf:
    raise ConfigError(
      f"{ema:g} names no EMA: a relative width lies between 0 and "
      f"{MAX_SIGMA_REL:.3f}, a half-life in images is at least 1"
    )


def relative_widths(config: Run) -> tuple[float, ...]:
  """Returns the relative widths among `config.ema`, without the half-lives."""
  return tuple(ema for ema in config.ema if ema < 1)


def name(ema: float) -> str:
  """Returns an EMA's key in the train state: `0.050` for 0.05, `500000`."""
  short = f"{ema:.3f}" if ema < 1 else f"{ema:.0f}"
  return short if float(short) == ema else repr(ema)


def power_exponent(sigma_rel: float) -> float:
  """Returns the exponent gamma of a relative width (EDM2, Equation 126).

  It solves `sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))`, which is
  Equation 123, for its largest root.
  """
  inverse = sigma_rel**-2
  roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
  return float(roots.real.max())


def power_update_weight(step: Array, exponent: float) -> Array:
  """Returns the weight of the new parameters in an update of a power function.

  It is `1 - (1 - 1 / step)^(gamma + 1)`, one minus EDM2's beta (Equation 127),
  without the cancellation that would make float32 wrong by per cents after a
  million steps. Steps count from 1; `exponent` is gamma.
  """
  step = jnp.asarray(step, jnp.float32)
  return -jnp.expm1((exponent + 1.0) * jnp.log1p(-1.0 / step))


def half_life_update_weight(
  step: Array, half_life: float, batch_size: int, rampup_ratio: float
) -> Array:
  """Returns the weight of the new parameters in an update with a half-life.

  It is `1 - 2^(-batch_size / h)`, both in images, where `h` is the half-life
  after its ramp-up: at most `rampup_ratio` of the images seen before this
  update, so that nothing of the initial parameters stays (EDM); 0 for no
  ramp-up. Steps count from 1.
  """
  images = jnp.asarray(half_life, jnp.float32)
  if rampup_ratio:
    seen = (jnp.asarray(step, jnp.float32) - 1.0) * batch_size
    images = jnp.minimum(images, rampup_ratio * seen)
  return -jnp.expm1(-math.log(2.0) * batch_size / images)


def update_weights(config: Run, step: Array) -> dict[str, Array]:
  """Returns the weight of the parameters after update `step` in each EMA.

  Steps count from 1; the weights are by the EMA's name.
  """

  def weight(ema: float) -> Array:
    if ema < 1:
      return power_update_weight(step, power_exponent(ema))
    return half_life_update_weight(
      step, ema, config.batch_size, config.ema_rampup_ratio
    )

  return {name(ema): weight(ema) for ema in config.ema}


def init(params: Any, emas: Sequence[float]) -> dict[str, Any]:
  """Returns EMAs by name that begin as copies of the parameters."""
  return {name(ema): jax.tree.map(jnp.copy, params) for ema in emas}


def update(
  emas: dict[str, Any], params: Any, weights: dict[str, Array]
) -> dict[str, Any]:
  """Returns the EMAs by name after an update that gave these parameters.

  The weights are those of the parameters in each EMA; see `update_weights`.
  """

  def mix(weight, old, new):
    # With a weight of 1 it is the new one exactly, whatever the old one is.
    return jnp.where(weight >= 1.0, new, old + weight * (new - old))

  return {
    key: jax.tree.map(functools.partial(mix, weights[key]), ema, params)
    for key, ema in emas.items()
  }
