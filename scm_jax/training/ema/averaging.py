"""Averages of the parameters: power functions (EDM2) and half-lives (EDM).

A number names an average. Below 1 it is the width `sigma_rel` of a power
function of the training time (EDM2, arXiv 2312.02696, Section 3): at step `n`
the parameters of step `m` weigh as `m^gamma`. From 1 on it is a half-life in
images, which EDM's CIFAR-10 runs use (arXiv 2206.00364, Table 8).
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax.errors import ConfigError

# The width of the plain mean, gamma = 0; wider ones would favour the start.
MAX_WIDTH = 12**-0.5


def check(config: Any) -> None:
  """Raises ConfigError, in one line, for averages that cannot be kept."""
  if not config.ema:
    raise ConfigError("config.ema is empty; name at least one average")
  for average in config.ema:
    check_average(average)
  names = [name(average) for average in config.ema]
  if len(set(names)) < len(names):
    raise ConfigError(f"config.ema names an average twice: {', '.join(names)}")
  if config.snapshot_every and not widths(config):
    raise ConfigError(
      "config.snapshot_every keeps averages with a relative width, but "
      "config.ema has half-lives only; add one, such as 0.05"
    )


def check_average(average: float) -> None:
  """Raises ConfigError for a number that names no average."""
  if not 0 < average <= MAX_WIDTH and not 1 <= average < math.inf:
    raise ConfigError(
      f"no average is named {average:g}: a relative width lies between 0 and "
      f"{MAX_WIDTH:.3f}, a half-life in images is at least 1"
    )


def widths(config: Any) -> tuple[float, ...]:
  """Those of `config.ema` that are relative widths, power functions."""
  return tuple(average for average in config.ema if average < 1)


def name(average: float) -> str:
  """The key of an average in the state: 0.05 is `0.050`, 5e5 is `500000`."""
  short = f"{average:.3f}" if average < 1 else f"{average:.0f}"
  return short if float(short) == average else repr(average)


def gamma(sigma_rel: float) -> float:
  """The exponent of a relative width (EDM2, Equation 123).

  Solves `sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))`.
  """
  inverse = sigma_rel**-2
  roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
  return float(roots.real.max())


def share(step: Array, exponent: float) -> Array:
  """`1 - (1 - 1 / step)^(gamma + 1)`, of the new parameters in the average.

  Of the update that ends `step` >= 1. Computed without the cancellation that
  would make float32 wrong by per cents after a million steps.
  """
  step = jnp.asarray(step, jnp.float32)
  return -jnp.expm1((exponent + 1.0) * jnp.log1p(-1.0 / step))


def half_life_share(
  step: Array, half_life: float, batch_size: int, rampup_ratio: float
) -> Array:
  """`1 - 2^(-batch_size / h)`, with `h` the half-life in images.

  Args:
    step: the one that the update ends, >= 1.
    half_life: `h` in the long run, images.
    batch_size: images a step.
    rampup_ratio: `h` is at most this part of the images seen before the step,
      so that nothing of the start stays; 0 for no such ramp-up (EDM).
  """
  images = jnp.asarray(half_life, jnp.float32)
  if rampup_ratio:
    seen = (jnp.asarray(step, jnp.float32) - 1.0) * batch_size
    images = jnp.minimum(images, rampup_ratio * seen)
  return -jnp.expm1(-math.log(2.0) * batch_size / images)


def shares(config: Any, step: Array) -> dict[str, Array]:
  """The share of the new parameters in each average, by its name.

  Args:
    config: the whole config; uses `ema`, `ema_rampup_ratio`, `batch_size`.
    step: the one that the update ends, >= 1.
  """

  def one(average):
    if average < 1:
      return share(step, gamma(average))
    return half_life_share(
      step, average, config.batch_size, config.ema_rampup_ratio
    )

  return {name(average): one(average) for average in config.ema}


def init(params: Any, averages: Sequence[float]) -> dict[str, Any]:
  """Averages that start as copies of the parameters."""
  return {name(a): jax.tree.map(jnp.copy, params) for a in averages}


def update(
  averages: dict[str, Any], params: Any, shares: dict[str, Array]
) -> dict[str, Any]:
  """The averages after an update, which gave `params`; see `shares`."""

  def updated(key, average):
    part = shares[key]

    def mix(old, new):
      # All of the new, exactly, whatever the old is.
      return jnp.where(part >= 1.0, new, old + part * (new - old))

    return jax.tree.map(mix, average, params)

  return {key: updated(key, average) for key, average in averages.items()}
