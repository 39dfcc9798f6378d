"""What a sampler holds, the kinds of network, and how each is sampled.

A kind is an entry of `KINDS`. Everything that depends on it, in this package
and in the exports, is looked up there or by its name.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from scm_jax import codec as codecs
from scm_jax import networks, samplers, schema, trigflow
from scm_jax.errors import ConfigError
from scm_jax.objectives import velocity

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
  default_steps: Callable[["SamplerState"], int]
  fresh_noise: bool
  evaluation_times: Callable[["SamplerState", int], Sequence[float]]
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


def few_times(sampler: "SamplerState", steps: int) -> tuple[float, ...]:
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
    shown = joined(_rounded(times[1:9]))
    shown += ", ..." if len(times) > 9 else ""
    raise ConfigError(
      f"the times of the steps after the first are {shown}, but {steps} steps "
      f"need {steps - 1} of them, which decrease from less than the first, "
      f"{times[0]:.3f}, to more than 0"
    )
  return times


def _rounded(times: tuple[float, ...]) -> tuple[float, ...]:
  return tuple(round(t, 4) for t in times)


def _few_steps(sampler: "SamplerState") -> int:
  return len(sampler.times) + 1 if sampler.times else 2


def joined(values: float | tuple[float, ...]) -> Any:
  """Returns the values of several steps as one text, `1.3:1.0`.

  A single number stays one.
  """
  return ":".join(map(str, values)) if isinstance(values, tuple) else values


def _diffusion_path(
  sampler: "SamplerState",
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


def _grid(sampler: "SamplerState", steps: int) -> Array:
  sigma_d, sigma_max = sampler.codec.sigma_d, sampler.sigma_max
  return samplers.ode_times(steps, sigma_d, sigma_max=sigma_max)


def _solver_times(sampler: "SamplerState", steps: int) -> list[float]:
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


@dataclasses.dataclass(frozen=True, eq=False)
class SamplerState:
  """A trained network, its parameters and the settings that it draws with.

  Attributes:
    network: the network's functions.
    params: the network's parameters, normalised EMA weights.
    codec: the map between stored data and the network's data, which decodes
      samples.
    kind: how the network is sampled, a name in `KINDS`: `consistency` for a
      network that maps a noisy sample to data at once, `map` for one that maps
      it to any earlier time, `diffusion` for one that gives a trajectory's
      velocity.
    t_mid: the second time of a 2-step sampler, in radians; 0 stands for steps
      of equal length.
    times: the times of the steps after the first one, in radians, decreasing,
      for a few-step sampler with one step more than there are; () takes those
      that follow from `t_mid`.
    gamma: how much of a flow map's noise is fresh in each step, from 0 to 1.
    sigma_max: the noise level that sampling starts from.
    solver: a diffusion model's ODE solver, a name in `SOLVERS`.
    solver_steps: the solver's number of steps unless the caller chooses.
    guidance: the guidance scale unless the caller chooses; it has no effect on
      a network that cannot be guided.
    guidance_interval: the lowest and the highest noise level at which a
      diffusion model is guided; () is everywhere.
    guidance_channels: how many of the data's channels are guided where a
      diffusion model is, from the first on, as in SiT's published samples; 0 is
      all.
    unconditional: whether the network was trained without labels for a part of
      the samples, so that "no label" means something to it.
    batch_size: how many images are drawn at once, on all devices together. A
      GPU draws single images soonest with 1.
    decoder: the parameters of the codec's autoencoder, if it has one.
    guidance_network: a second network that guides a diffusion model (EDM2's
      guidance and autoguidance); None is classifier-free guidance.
    guidance_params: the guidance network's parameters.
    batch_sharding: how a batch is divided over devices, each of which then
      holds all parameters; None leaves the placement to JAX.
  """

  network: networks.Network
  params: Any
  codec: codecs.Codec
  kind: str = "consistency"
  t_mid: float = samplers.T_MID
  times: tuple[float, ...] = ()
  gamma: float = 0.0
  sigma_max: float = trigflow.SIGMA_MAX
  solver: str = "heun"
  solver_steps: int = 32
  guidance: float = 1.0
  guidance_interval: tuple[float, ...] = ()
  guidance_channels: int = 0
  unconditional: bool = True
  batch_size: int = 256
  decoder: Any = None
  guidance_network: networks.Network | None = None
  guidance_params: Any = None
  batch_sharding: NamedSharding | None = None

  def __post_init__(self):
    """Raises ConfigError for numbers that are out of range."""
    if self.kind not in KINDS:
      raise ValueError(f"there is no kind of sampler {self.kind!r}")
    if self.solver not in SOLVERS:
      raise ValueError(f"there is no solver {self.solver!r}")
    for name, (low, high) in RANGES.items():
      value = getattr(self, name)
      if not low <= value <= high:
        raise ConfigError(
          f"{name} is {value:g}; it must be from {low:g} to {high:g}"
        )
    if self.batch_size < 1:
      raise ConfigError(f"batch_size is {self.batch_size}; it must be positive")
    if not isinstance(self.times, tuple):  # a list, an array, or a single time
      times = tuple(map(float, np.ravel(self.times)))
      object.__setattr__(self, "times", times)
    schema.check_interval(self.guidance_interval, "guidance_interval")
    object.__setattr__(self, "guidance_interval", tuple(self.guidance_interval))
    channels = self.network.config.in_channels
    schema.check_channels(self.guidance_channels, channels, "guidance_channels")

  @property
  def rules(self) -> Kind:
    """The rules of the network's kind."""
    return KINDS[self.kind]

  @property
  def parameters(self) -> int:
    """The number of the network's parameters, without the weighting head."""
    return networks.parameter_count(self.params)

  @property
  def weights(self) -> Any:
    """All parameters: `params`, with the guidance network's as `guide`."""
    if self.guidance_network is None:
      return self.params
    return {**self.params, "guide": self.guidance_params}

  def with_weights(self, weights: Any) -> Self:
    """Returns this sampler with other parameters, laid out like `weights`."""
    if self.guidance_network is None:
      return dataclasses.replace(self, params=weights)
    params = dict(weights)
    guidance_params = params.pop("guide")
    return dataclasses.replace(
      self, params=params, guidance_params=guidance_params
    )

  @property
  def steps(self) -> int:
    """The number of steps that is taken unless the caller chooses."""
    return self.rules.default_steps(self)

  @property
  def data_shape(self) -> tuple[int, int, int]:
    """The shape `(H, W, C)` of the network's data."""
    config = self.network.config
    return config.resolution, config.resolution, config.in_channels

  @functools.cached_property
  def image_shape(self) -> tuple[int, int, int]:
    """The shape `(H, W, C)` of the images that are drawn."""
    x0 = jax.ShapeDtypeStruct((1, *self.data_shape), jnp.float32)
    return jax.eval_shape(self.codec.decode, x0, self.decoder).shape[1:]

  @property
  def devices(self) -> int:
    """The number of devices that share a batch."""
    return self.batch_sharding.num_devices if self.batch_sharding else 1

  @property
  def platform(self) -> str:
    """The platform of the devices that draw, as JAX names it."""
    if self.batch_sharding is None:
      return jax.default_backend()
    return self.batch_sharding.mesh.devices.flat[0].platform

  @functools.cached_property
  def ready(self) -> Self:
    """This sampler with its weights folded, for drawing alone.

    Its parameters are those that the networks' `fold` returns: no call computes
    anything from weights alone. They suit batches of `batch_size` images, and
    serve others too. The samples are the same.
    """
    second = self.guidance_network
    if not (self.network.fold or (second and second.fold)):
      return self
    batch = -(-self.batch_size // self.devices)
    ready = self.with_weights(
      _folded(self.network, second, self.weights, self.platform, batch)
    )
    vars(ready)["ready"] = ready  # it need not be folded again
    return ready

  def changed(self, **settings: Any) -> Self:
    """Returns this sampler with other settings, such as `t_mid=0.8`.

    It shares the folded weights, which `dataclasses.replace` would fold anew,
    unless they are to suit another `batch_size`.
    """
    other = dataclasses.replace(self, **settings)
    if other.batch_size != self.batch_size:
      return other
    ready = dataclasses.replace(self.ready, **settings)
    vars(ready)["ready"] = vars(other)["ready"] = ready
    return other

  def noise_draws(self, steps: int) -> int:
    """Returns how many draws of noise a sample takes."""
    return steps if self.rules.fresh_noise else 1

  def evaluations(self, steps: int, guidance: Guidance = 1.0) -> int:
    """Returns the network evaluations for one sample, guidance included.

    Raises:
      ConfigError: the sampler's own times are not for this number of steps.
    """
    times = self.rules.evaluation_times(self, steps)
    if not self.extrapolates(guidance):
      return len(times)
    guided = velocity.is_guided(
      jnp.asarray(times), self.guidance_interval, self.codec.sigma_d
    )
    return len(times) + int(guided.sum())

  def extrapolates(self, guidance: Guidance) -> bool:
    """Returns whether this scale costs a second evaluation of a network."""
    return guidance != 1.0 and not self.rules.guidance_is_input

  def settings(self, steps: int, guidance: Guidance) -> dict[str, Any]:
    """Returns all that decides how samples are drawn, as JSON's types."""
    found: dict[str, Any] = {"guidance": joined(guidance)}
    if self.guidance_interval and self.extrapolates(guidance):
      found["guidance_interval"] = joined(self.guidance_interval)
    if self.guidance_channels and self.extrapolates(guidance):
      found["guidance_channels"] = self.guidance_channels
    if steps > 1:
      found |= {name: getattr(self, name) for name in self.rules.settings}
      if "t_mid" in found and (self.times or not self.t_mid):
        del found["t_mid"]
        times = self.times or _rounded(few_times(self, steps)[1:])
        found["times"] = joined(times)
    dtype = jnp.dtype(self.network.config.dtype).name
    return found | {"sigma_max": self.sigma_max, "dtype": dtype}

  def on(self, batch_sharding: NamedSharding) -> Self:
    """Returns this sampler on several devices, with a copy on each."""
    whole = NamedSharding(batch_sharding.mesh, PartitionSpec())
    return dataclasses.replace(
      jax.device_put(self, whole), batch_sharding=batch_sharding
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 3, 4))
def _folded(
  network: networks.Network,
  second: networks.Network | None,
  weights: Any,
  platform: str,
  batch: int,
) -> Any:
  """Folds the weights of a network and of its guidance network."""
  if network.fold:
    weights = network.fold(weights, platform, batch)
  if second and second.fold:
    weights = {
      **weights,
      "guide": second.fold(weights["guide"], platform, batch),
    }
  return weights
