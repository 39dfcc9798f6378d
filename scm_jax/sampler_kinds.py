"""The kinds of network, and how each is sampled.

A kind is an entry of `KINDS`. Everything that depends on it, in this package
and in the exports, is looked up there or by its name.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import Array

from scm_jax import networks, samplers, trigflow
from scm_jax.errors import ConfigError

# A `SamplerState`, whose module imports this one.
State = Any
# One guidance scale, or one for each step of a few-step sampler.
Guidance = float | tuple[float, ...]

SOLVERS = {
  "heun": samplers.heun,
  "dpm_solver": samplers.dpm_solver,
}


@dataclasses.dataclass(frozen=True)
class Kind:
  """How the networks of one kind are sampled.

  Attributes:
    path: `path(sampler, F, noise, cond, steps) -> (x0, Path)`, a pure function
      that draws no random numbers. `F` is the network with its parameters
      bound, `noise` is unit noise `[draws, B, H, W, C]`, and `x0` is float32
      `[B, H, W, C]`.
    default_steps: `default_steps(sampler)`, the number of steps that is taken
      unless the caller chooses another.
    fresh_noise: whether each step takes fresh noise; otherwise a sample takes
      one draw of noise in all.
    evaluation_times: `evaluation_times(sampler, steps)`, the times at which the
      network is evaluated for one sample without guidance, in radians.
    settings: names of the sampler's fields that decide how a sample of more
      than one step is drawn.
    guidance_is_input: whether the network takes the guidance scale as an
      input. Otherwise guidance extrapolates from a second evaluation, of the
      guidance network or of the network itself without labels.
    few_steps: whether one step already draws good samples.
    edits: whether `Sampler.edit` works.
  """

  path: Callable[..., tuple[Array, samplers.Path]]
  default_steps: Callable[[State], int]
  fresh_noise: bool
  evaluation_times: Callable[[State, int], Sequence[float]]
  settings: tuple[str, ...]
  guidance_is_input: bool
  few_steps: bool
  edits: bool


RANGES = {  # of a sampler's numbers, and of `config.sample`
  "t_mid": (0.0, math.pi / 2),
  "gamma": (0.0, 1.0),
  "guidance": (0.0, 1e3),
  "sigma_max": (0.01, 1e6),  # a solver ends at `samplers.SIGMA_MIN`
}


def few_times(sampler: State, steps: int) -> tuple[float, ...]:
  """Returns the times of a few-step sampler's steps, in radians, decreasing.

  Raises:
    ConfigError: the sampler's own times are not for this number of steps, or
      are no times that decrease from the first one to above 0.
  """
  times = samplers.consistency_times(
    steps, sampler.codec.sigma_d, sampler.t_mid, sampler.sigma_max
  )
  if steps > 1 and sampler.times:
    times = times[0], *sampler.times
  falling = all(a > b for a, b in itertools.pairwise((*times, 0.0)))
  if len(times) != steps or not falling:
    shown = joined(rounded(times[1:9]))
    shown += ", ..." if len(times) > 9 else ""
    raise ConfigError(
      f"the times of the steps after the first are {shown}, but {steps} steps "
      f"need {steps - 1} of them, which decrease from less than the first, "
      f"{times[0]:.3f}, to more than 0"
    )
  return times


def rounded(times: tuple[float, ...]) -> tuple[float, ...]:
  """Returns times as they are shown."""
  return tuple(round(t, 4) for t in times)


def _few_steps(sampler: State) -> int:
  return len(sampler.times) + 1 if sampler.times else 2


def joined(values: float | tuple[float, ...]) -> Any:
  """Returns the values of several steps as one text, `1.3:1.0`.

  A single number stays one.
  """
  return ":".join(map(str, values)) if isinstance(values, tuple) else values


def _diffusion_path(
  sampler: State,
  F: Callable[..., Array],
  noise: Array,
  cond: networks.Cond,
  steps: int,
) -> tuple[Array, samplers.Path]:
  sigma_d = sampler.codec.sigma_d
  if steps == 1:
    # One Euler step from noise to data is the consistency formula.
    times = (trigflow.max_time(sigma_d, sampler.sigma_max),)
    return samplers.consistency(F, noise, cond, times, sigma_d)
  grid = _grid(sampler, steps)
  return SOLVERS[sampler.solver](F, noise[0], cond, grid, sigma_d)


def _grid(sampler: State, steps: int) -> Array:
  sigma_d, sigma_max = sampler.codec.sigma_d, sampler.sigma_max
  return samplers.ode_times(steps, sigma_d, sigma_max=sigma_max)


def _solver_times(sampler: State, steps: int) -> list[float]:
  # Heun's steps but the last also look at where they end.
  times = np.asarray(_grid(sampler, steps))[:-1].tolist()
  return times + times[1:] if sampler.solver == "heun" else times


_CONSISTENCY = Kind(
  path=lambda sampler, F, noise, cond, steps: samplers.consistency(
    F, noise, cond, few_times(sampler, steps), sampler.codec.sigma_d
  ),
  default_steps=_few_steps,
  fresh_noise=True,
  evaluation_times=few_times,
  settings=("t_mid",),
  guidance_is_input=True,
  few_steps=True,
  edits=True,
)
KINDS = {
  "consistency": _CONSISTENCY,
  "map": dataclasses.replace(
    _CONSISTENCY,
    path=lambda sampler, F, noise, cond, steps: samplers.flow_map(
      F,
      noise,
      cond,
      few_times(sampler, steps),
      sampler.codec.sigma_d,
      sampler.gamma,
    ),
    settings=("t_mid", "gamma"),
  ),
  "diffusion": Kind(
    path=_diffusion_path,
    default_steps=lambda sampler: sampler.solver_steps,
    fresh_noise=False,
    evaluation_times=_solver_times,
    settings=("solver",),
    guidance_is_input=False,
    few_steps=False,
    edits=False,
  ),
}
