"""The kinds of network that can be sampled, and how each one is sampled.

A kind is an entry of `KINDS`. Everything that depends on it, in this package
and in the exports, is looked up there or by its name.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from jax import Array

from scm_jax import networks, samplers, trigflow

if TYPE_CHECKING:
  from scm_jax.sampler import Sampler

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
    evaluations: `evaluations(sampler, steps)`, the network evaluations for one
      sample without guidance.
    settings: names of the sampler's fields that decide how a sample of more
      than one step is drawn.
    guidance_is_input: whether the network takes the guidance scale as an
      input. Otherwise guidance extrapolates from a second evaluation, of the
      guidance network or of the network itself without labels.
    few_steps: whether one step already draws good samples.
    edits: whether `Sampler.edit` works.
  """

  path: Callable[..., tuple[Array, samplers.Path]]
  default_steps: Callable[["Sampler"], int]
  fresh_noise: bool
  evaluations: Callable[["Sampler", int], int]
  settings: tuple[str, ...]
  guidance_is_input: bool
  few_steps: bool
  edits: bool


def _consistency_path(
  sampler: "Sampler",
  F: Callable[..., Array],
  noise: Array,
  cond: networks.Cond,
  steps: int,
) -> tuple[Array, samplers.Path]:
  sigma_d = sampler.codec.sigma_d
  times = samplers.consistency_times(
    steps, sigma_d, sampler.t_mid, sampler.sigma_max
  )
  return samplers.consistency(F, noise, cond, times, sigma_d)


def _diffusion_path(
  sampler: "Sampler",
  F: Callable[..., Array],
  noise: Array,
  cond: networks.Cond,
  steps: int,
) -> tuple[Array, samplers.Path]:
  sigma_d, sigma_max = sampler.codec.sigma_d, sampler.sigma_max
  if steps == 1:
    # One Euler step from noise to data is the consistency formula.
    times = (trigflow.max_time(sigma_d, sigma_max),)
    return samplers.consistency(F, noise, cond, times, sigma_d)
  grid = samplers.ode_times(steps, sigma_d, sigma_max=sigma_max)
  return SOLVERS[sampler.solver](F, noise[0], cond, grid, sigma_d)


def _solver_evaluations(sampler: "Sampler", steps: int) -> int:
  return 2 * steps - 1 if sampler.solver == "heun" else steps


KINDS = {
  "consistency": Kind(
    path=_consistency_path,
    default_steps=lambda sampler: 2,
    fresh_noise=True,
    evaluations=lambda sampler, steps: steps,
    settings=("t_mid",),
    guidance_is_input=True,
    few_steps=True,
    edits=True,
  ),
  "diffusion": Kind(
    path=_diffusion_path,
    default_steps=lambda sampler: sampler.solver_steps,
    fresh_noise=False,
    evaluations=_solver_evaluations,
    settings=("solver",),
    guidance_is_input=False,
    few_steps=False,
    edits=False,
  ),
}
