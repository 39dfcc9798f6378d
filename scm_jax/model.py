"""A trained network as something that draws images.

This is what a workdir or an export loads as. It needs jax, flax and
numpy alone.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax import codec as codecs
from scm_jax import networks, samplers, trigflow
from scm_jax.errors import ConfigError
from scm_jax.objectives import velocity

SOLVERS = {
  "heun": samplers.heun_path,
  "dpm_solver": samplers.dpm_solver_path,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A network, its parameters and how to sample from it.

  Attributes:
    network: the functions.
    params: of the network; an average, on the weights' sphere.
    codec: between what is stored and the network's data; it decodes samples.
    consistency: whether it maps any point to its trajectory's end (a student)
      or gives the trajectory's velocity (a diffusion teacher).
    t_mid: second time of the 2-step sampler.
    sigma_max: noise level that sampling starts from.
    solver: of teachers, a name in `SOLVERS`.
    solver_steps: how many the solver takes unless told otherwise.
    guidance: the scale that it draws with unless told otherwise, if it takes
      one.
    unconditional: whether a teacher has learnt what "no label" is, which
      classifier-free guidance asks it for.
    decoder: parameters of the codec's autoencoder, if it has one.
    guide: of a teacher, a second network that guides it (EDM2's guidance and
      autoguidance); None is classifier-free guidance by its own "no label".
    batch_sharding: of a batch over devices, which then must hold the
      parameters; None leaves it to JAX.
  """

  network: networks.Network
  params: Any
  codec: codecs.Codec
  consistency: bool
  t_mid: float = samplers.T_MID
  sigma_max: float = trigflow.SIGMA_MAX
  solver: str = "heun"
  solver_steps: int = 32
  guidance: float = 1.0
  unconditional: bool = True
  decoder: Any = None
  guide: "Model | None" = None
  batch_sharding: jax.sharding.NamedSharding | None = None

  @property
  def parameters(self) -> int:
    """Parameters of the network, without the weighting head."""
    return networks.parameter_count(self.params)

  @property
  def weights(self) -> Any:
    """`params`, and the guide's under `guide`: what a teacher is asked with."""
    if self.guide is None:
      return self.params
    return {**self.params, "guide": self.guide.params}

  @property
  def weak(self) -> networks.Network | None:
    """The guide's network, for `velocity.guided`."""
    return self.guide.network if self.guide else None

  @property
  def steps(self) -> int:
    """Steps of its sampler unless told otherwise: a student takes 2."""
    return 2 if self.consistency else self.solver_steps

  @property
  def takes_guidance(self) -> bool:
    """Whether a scale other than 1 changes what it draws."""
    config = self.network.config
    if self.consistency:
      return config.guidance
    return bool(self.guide or (config.num_classes and self.unconditional))

  def scale(self, guidance: float | None = None) -> float:
    """The scale to draw with: what is given, or else the model's own.

    Raises:
      ConfigError: a scale other than 1 for a network that takes none.
    """
    if self.takes_guidance:
      return float(self.guidance if guidance is None else guidance)
    if guidance in (None, 1.0):
      return 1.0
    if self.consistency:
      why = (
        "this student was trained without guidance as an input; train one with "
        "--config.objective.guidance=sampled"
      )
    elif not self.network.config.num_classes:
      why = "this network takes no labels, and has no guide"
    else:
      why = "this network was always given labels, and has no guide"
    raise ConfigError(f"guidance {guidance:g}: {why}")

  def settings(self, steps: int, guidance: float) -> dict[str, Any]:
    """All that decides how samples are drawn, by name, in JSON's types."""
    settings: dict[str, Any] = {"guidance": guidance}
    if steps > 1:
      name = "t_mid" if self.consistency else "solver"
      settings[name] = getattr(self, name)
    dtype = jnp.dtype(self.network.config.dtype).name
    return settings | {"sigma_max": self.sigma_max, "dtype": dtype}

  def evaluations(self, steps: int, guidance: float = 1.0) -> int:
    """Network evaluations for one sample (NFE), guidance included."""
    if self.consistency:
      return steps
    passes = 2 * steps - 1 if self.solver == "heun" else steps
    return passes * (1 if guidance == 1.0 else 2)

  def sample(
    self,
    labels: np.ndarray | None,
    *,
    num: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    batch_size: int = 256,
  ) -> np.ndarray:
    """Draws images.

    Args:
      labels: `[N]` classes, or None for a network without labels (or for no
        label).
      num: how many to draw when there are no labels.
      steps: of the consistency sampler, or of the teacher's solver; None is
        `self.steps`.
      seed: sample `i` is a function of `(seed, i, label i)`.
      guidance: the student's input, or the teacher's guidance scale; None is
        the model's own.
      batch_size: how many at once; it does not change the samples.

    Returns:
      uint8 `[N, H, W, C]`.

    Raises:
      ConfigError: guidance for a network that takes none.
    """
    steps, guidance = steps or self.steps, self.scale(guidance)
    config = self.network.config
    if labels is None:
      if num is None:
        raise ValueError("give labels, or num to draw without them")
      labels = np.full(num, config.num_classes, np.int32)
    labels = np.asarray(labels, np.int32)
    total = len(labels)
    batch_size = min(batch_size, total)
    images = []
    for start in range(0, total, batch_size):
      # The last batch is filled up, so that one program serves all.
      index = np.arange(start, start + batch_size)
      label = labels[np.minimum(index, total - 1)]
      images.append(
        self.draw(index, label, steps=steps, seed=seed, guidance=guidance)
      )
    return np.concatenate([np.asarray(batch) for batch in images])[:total]

  def draw(
    self,
    index: np.ndarray,
    label: np.ndarray,
    *,
    steps: int,
    seed: int,
    guidance: float,
  ) -> Array:
    """Starts to draw the samples `index` `[B]` with labels `label` `[B]`.

    Returns:
      uint8 `[B, H, W, C]` on the devices, for which it does not wait; see
      `sample` for the rest.
    """
    index, label = np.asarray(index), np.asarray(label, np.int32)
    if self.batch_sharding:
      index, label = jax.device_put((index, label), self.batch_sharding)
    return self._program(steps, guidance == 1.0 and not self.consistency)(
      *(self.weights, self.decoder, jnp.int32(seed), index, label),
      jnp.float32(guidance),
    )

  def on(self, batch_sharding: jax.sharding.NamedSharding) -> "Model":
    """The same model on several devices, for batches that are cut over them."""
    whole = jax.sharding.NamedSharding(
      batch_sharding.mesh, jax.sharding.PartitionSpec()
    )
    return dataclasses.replace(
      self,
      params=jax.device_put(self.params, whole),
      decoder=jax.device_put(self.decoder, whole),
      guide=self.guide and self.guide.on(batch_sharding),
      batch_sharding=batch_sharding,
    )

  def draws(self, steps: int) -> int:
    """How often a sample takes fresh noise."""
    return steps if self.consistency else 1

  def sampler(self, steps: int, unguided: bool = False) -> Callable[..., Array]:
    """The sampler as a pure function, which draws no random numbers.

    Args:
      steps: as in `sample`.
      unguided: leave a teacher's guidance out, which is 1 then.

    Returns:
      `draw(weights, noise, label, guidance) -> x0`, of unit noise
      `[draws, B, H, W, C]`, labels `[B]` and a scale; `x0` is `[B, H, W, C]`
      float32, before `codec.decode`.
    """
    draw = self.path(steps, unguided)
    return lambda *arguments: draw(*arguments)[0]

  def path(
    self, steps: int, unguided: bool = False
  ) -> Callable[..., tuple[Array, samplers.Path]]:
    """`sampler`, which also says how its samples came about."""
    return _sampler(self._recipe(steps, unguided))

  def bind(
    self, weights: Any, label: Array, guidance: Array, unguided: bool = False
  ) -> tuple[Callable[..., Array], networks.Cond]:
    """`F(x / sigma_d, t, cond)` of these weights, and its condition.

    Args as in `sampler`.
    """
    return _bind(self._recipe(1, unguided), weights, label, guidance)

  @property
  def decode(self) -> Callable[[Array, Any], Array]:
    """`decode(x0, self.decoder)`: the codec's, on each device its own part."""
    return _decoder(self._recipe(1, False))

  def _program(self, steps: int, unguided: bool) -> Callable[..., Array]:
    return _program(self._recipe(steps, unguided))

  def _recipe(self, steps: int, unguided: bool) -> "_Recipe":
    return _Recipe(
      *(self.network, self.weak, self.codec, self.consistency, self.t_mid),
      *(self.sigma_max, self.solver, steps, unguided, self.batch_sharding),
    )


class _Recipe(NamedTuple):
  """All that a sampler depends on but the parameters."""

  network: networks.Network
  weak: networks.Network | None
  codec: codecs.Codec
  consistency: bool
  t_mid: float
  sigma_max: float
  solver: str
  steps: int
  unguided: bool
  batch_sharding: jax.sharding.NamedSharding | None


@functools.lru_cache(maxsize=64)
def _program(recipe: _Recipe) -> Callable[..., Array]:
  """A compiled sampler: noise, all steps and decoding in one program.

  Parameters are an argument, so that the averages of a run in training share
  one compilation.
  """
  config = recipe.network.config
  draw, decode = _sampler(recipe), _decoder(recipe)

  def program(weights, decoder, seed, index, label, guidance):
    shape = (config.resolution, config.resolution, config.in_channels)
    draws = recipe.steps if recipe.consistency else 1
    noise = samplers.draw_noise(seed, index, draws, shape)
    x0, _ = draw(weights, noise, label, guidance)
    return decode(x0, decoder)

  return jax.jit(program)


def _decoder(recipe: _Recipe) -> Callable[[Array, Any], Array]:
  """The codec's `decode`, on each device of its own part of the batch.

  Left to JAX, groups of images would not be those of one device.
  """
  decode, where = recipe.codec.decode, recipe.batch_sharding
  if where is None:
    return decode
  specs = where.spec, jax.sharding.PartitionSpec()
  return jax.shard_map(
    decode, mesh=where.mesh, in_specs=specs, out_specs=where.spec
  )


def _sampler(recipe: _Recipe) -> Callable[..., tuple[Array, samplers.Path]]:
  """`draw(weights, noise, label, guidance)`; see `Model.path`."""
  consistency, steps = recipe.consistency, recipe.steps
  sigma_d, sigma_max = recipe.codec.sigma_d, recipe.sigma_max

  def draw(weights, noise, label, guidance):
    F, cond = _bind(recipe, weights, label, guidance)
    if consistency:
      times = samplers.consistency_times(
        steps, sigma_d, recipe.t_mid, sigma_max
      )
      return samplers.consistency_path(F, noise, cond, times, sigma_d)
    if steps == 1:
      # One Euler step all the way, which is the consistency formula.
      times = (trigflow.max_time(sigma_d, sigma_max),)
      return samplers.consistency_path(F, noise, cond, times, sigma_d)
    times = samplers.ode_times(steps, sigma_d, sigma_max=sigma_max)
    return SOLVERS[recipe.solver](F, noise[0], cond, times, sigma_d)

  return draw


def _bind(
  recipe: _Recipe, weights: Any, label: Array, guidance: Array
) -> tuple[Callable[..., Array], networks.Cond]:
  """See `Model.bind`."""
  network = recipe.network
  cond = networks.null_cond(network.config, label.shape[0])
  if network.config.num_classes:
    cond["label"] = label
  if network.config.guidance:
    cond["guidance"] = jnp.broadcast_to(guidance, label.shape)
  if recipe.consistency or recipe.unguided:
    return functools.partial(network.F, weights), cond
  return velocity.guided(network, recipe.weak, weights, guidance), cond
