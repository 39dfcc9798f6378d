"""A sampler's pure functions, the programs compiled from them, and batches.

A `Sampler` is a pytree whose leaves are the parameters. It is passed to the
programs as an argument, so that samplers that differ in their parameters only,
such as the EMA weights of a run in training, share one compilation.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from scm_jax import compilation, editing, networks, samplers
from scm_jax.errors import ConfigError
from scm_jax.objectives import velocity
from scm_jax.sampler_state import SamplerState


def bind(
  sampler: SamplerState, label: Array, guidance: Array, guided: bool = True
) -> tuple[Callable[..., Array], samplers.Cond]:
  """Binds parameters and a condition to a sampler's network.

  Args:
    sampler: the network and its parameters.
    label: labels `[B]`.
    guidance: the guidance scale, `[]` or `[B]`; or, where the network takes it
      as an input, those of each step, `[steps, 1]` or `[steps, B]`.
    guided: whether a network that does not take the scale as an input is guided
      by a second evaluation.

  Returns:
    `F(x / sigma_d, t, cond)`, and the condition to call it with, or that of
    each step.
  """
  network = sampler.network
  cond = networks.null_cond(network.config, label.shape[0])
  if network.config.num_classes:
    cond["label"] = label
  with_scale = lambda scale: (
    cond | {"guidance": jnp.broadcast_to(scale, label.shape)}
  )
  found: samplers.Cond = cond
  if network.config.guidance:
    by_step = jnp.ndim(guidance) == 2
    found = (
      [with_scale(scale) for scale in guidance]
      if by_step
      else with_scale(guidance)
    )
  plain = functools.partial(network.F, sampler.params)
  if sampler.rules.guidance_is_input or not guided:
    return plain, found
  scale = guidance
  if sampler.guidance_channels:
    chosen = jnp.arange(network.config.in_channels) < sampler.guidance_channels
    scale = jnp.where(chosen, jnp.reshape(guidance, (-1, 1, 1, 1)), 1)
  interval = sampler.guidance_interval
  F = velocity.guided(
    network, sampler.guidance_network, sampler.weights, scale, interval
  )
  if not interval:
    return F, found

  def limited(x, t, cond):
    # A solver gives all samples one time, outside of whose interval there is
    # nothing to evaluate twice.
    inside = velocity.is_guided(t, interval, network.config.sigma_d).any()
    return jax.lax.cond(inside, F, plain, x, t, cond)

  return limited, found


def integrate(
  sampler: SamplerState,
  noise: Array,
  label: Array,
  guidance: Array,
  steps: int,
  guided: bool = True,
) -> tuple[Array, samplers.Path]:
  """Draws samples from unit noise `[draws, B, H, W, C]`; see `bind`.

  Returns:
    `x0`, float32 `[B, H, W, C]`, not decoded, and the steps that lead there.

  Raises:
    ConfigError: the kind of sampler gives samples of another shape.
  """
  F, cond = bind(sampler, label, guidance, guided)
  x0, path = sampler.rules.path(sampler, F, noise, cond, steps)
  if x0.shape != noise.shape[1:]:
    raise ConfigError(
      f"the kind of sampler {sampler.kind!r} gives samples "
      f"{list(x0.shape)} for noise {list(noise.shape[1:])}; both must have one "
      "shape"
    )
  return x0, path


def decode(sampler: SamplerState, x0: Array) -> Array:
  """Decodes samples `[B, H, W, C]` to uint8 images, on each device its own.

  Left to JAX, the groups of images that an autoencoder decodes at once would
  span devices.
  """
  if sampler.batch_sharding is None:
    return sampler.codec.decode(x0, sampler.decoder)
  batch = sampler.batch_sharding.spec
  decode_part = jax.shard_map(
    sampler.codec.decode,
    mesh=sampler.batch_sharding.mesh,
    in_specs=(batch, PartitionSpec()),
    out_specs=batch,
  )
  return decode_part(x0, sampler.decoder)


# The programs. The first axis of their batch's arrays is the sample's.


@compilation.jitted("steps", "guided", "to_host")
def draw_from_seed(
  sampler: SamplerState,
  guidance: Array,
  batch: Array,
  *,
  steps: int,
  guided: bool,
  to_host: bool = False,
) -> Array:
  """Draws the uint8 images of a batch of seeds, numbers and labels, `[B, 3]`.

  They are one array, because it takes a GPU a tenth of a millisecond to get
  one. With `to_host` the images are written to the host's memory, from which
  they are fetched sooner than from a GPU's.
  """
  seed, index, label = batch.T
  draws = sampler.noise_draws(steps)
  noise = samplers.draw_noise(seed, index, draws, sampler.data_shape)
  x0, _ = integrate(sampler, noise, label, guidance, steps, guided)
  images = decode(sampler, x0)
  return jax.device_put(images, jax.memory.Space.Host) if to_host else images


@compilation.jitted("steps", "guided")
def draw_from_noise(
  sampler: SamplerState,
  guidance: Array,
  batch: tuple[Array, Array],
  *,
  steps: int,
  guided: bool,
) -> Array:
  """Draws the uint8 images of noise `[B, draws, H, W, C]` and labels `[B]`."""
  noise, label = jnp.moveaxis(batch[0], 1, 0), batch[1]
  x0, _ = integrate(sampler, noise, label, guidance, steps, guided)
  return decode(sampler, x0)


@compilation.jitted("steps", "guided")
def draw_path(
  sampler: SamplerState,
  guidance: Array,
  batch: tuple[Array, Array],
  *,
  steps: int,
  guided: bool,
) -> samplers.Path:
  """Draws all steps of `draw_from_noise`, decoded, `[B, steps, ...]`."""
  noise, label = jnp.moveaxis(batch[0], 1, 0), batch[1]
  _, path = integrate(sampler, noise, label, guidance, steps, guided)
  show = jax.vmap(functools.partial(decode, sampler), out_axes=1)
  times = jnp.broadcast_to(path.times, (len(label), *path.times.shape))
  return samplers.Path(times, show(path.x_t), show(path.x0))


@compilation.jitted("times", "transform", "from_images")
def draw_edit(
  sampler: SamplerState,
  guidance: Array,
  batch: tuple[Array, Array, Array, Array],
  *,
  times: tuple[float, ...],
  transform: editing.Transform | None,
  from_images: bool,
) -> Array:
  """Edits the images of a batch of noise, labels, images and masks."""
  noise, label, images, mask = batch
  F, cond = bind(sampler, label, guidance)
  assert isinstance(cond, dict)  # there is one scale
  # Pixels have one encoding, so that the key is not used.
  data = sampler.codec.encode(images, jax.random.key(0))
  known = editing.Known(mask, transform) if transform else None
  x0 = editing.edit(
    F,
    jnp.moveaxis(noise, 1, 0),
    data,
    cond,
    sampler.codec.sigma_d,
    editing.Plan(times, known, from_images),
  )
  return decode(sampler, x0)


def put(sampler: SamplerState, batch: Any) -> Any:
  """Divides the arrays of a batch `[B, ...]` over the sampler's devices."""
  if sampler.batch_sharding is None:
    return batch
  return jax.device_put(batch, sampler.batch_sharding)


def in_batches(
  sampler: SamplerState,
  program: Callable[[Any], Any],
  arrays: Sequence[np.ndarray],
) -> Iterator[Any]:
  """Yields a program's results on the host, batch by batch.

  All batches have the same size, so that one compilation serves all and every
  device has its part; what fills up the last one is dropped. The devices
  compute a batch while the host fetches the one before, and never hold more
  than two.

  Args:
    sampler: the sampler whose devices and size of a batch are used.
    program: a function of one batch, whose results have the sample as their
      first axis.
    arrays: the arrays that batches are parts of, each `[N, ...]`.
  """
  total, devices = len(arrays[0]), sampler.devices
  size = min(sampler.batch_size, total)
  size = -(-size // devices) * devices
  running = None
  for first in range(0, total, size):
    index = np.minimum(np.arange(first, first + size), total - 1)
    batch = put(sampler, tuple(array[index] for array in arrays))
    started = program(batch), min(size, total - first)
    if running:
      yield _fetch(*running)
    running = started
  if running:
    yield _fetch(*running)


def _fetch(results: Any, count: int) -> Any:
  return jax.tree.map(lambda array: np.asarray(array)[:count], results)


def join(batches: Iterator[Any]) -> Any:
  """Concatenates the results of `in_batches`."""
  return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
