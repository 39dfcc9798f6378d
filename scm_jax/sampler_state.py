"""What a sampler holds, and what follows from it before anything is drawn."""

import dataclasses
import functools
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from scm_jax import codec as codecs
from scm_jax import networks, samplers, schema, trigflow
from scm_jax.errors import ConfigError
from scm_jax.objectives import velocity
from scm_jax.sampler_kinds import (
  KINDS,
  RANGES,
  SOLVERS,
  Guidance,
  Kind,
  few_times,
  joined,
  rounded,
)


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
        times = self.times or rounded(few_times(self, steps)[1:])
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
