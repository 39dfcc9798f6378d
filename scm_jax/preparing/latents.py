"""Encodes images to an autoencoder's latents, on all devices of this process.

Every device encodes batches of the same fixed size, so that a latent depends
neither on the number of devices nor on that of processes. On CPUs its last bit
may (see docs/data.md).
"""

import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, P
from jax.sharding import NamedSharding

from scm_jax.errors import UserError
from scm_jax.interop import autoencoder


class Encoder:
  """An autoencoder's encoder, compiled.

  Attributes:
    batch: the number of images that all devices take at once.
    factor: the side of an image divided by the side of its latent.
    channels: the number of channels stored, means and deviations.
    checksum: the SHA-256 of the autoencoder's file.
    software: what else the bits of a latent depend on.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    image_range: tuple[float, float],
    device_batch: int,
  ):
    """Reads the autoencoder.

    Args:
      path: the autoencoder's file or folder; see `interop.autoencoder.load`.
      image_range: the values that the autoencoder takes for black and white.
      device_batch: the number of images that one device takes at once.

    Raises:
      UserError: there is no such file, or it is not an autoencoder's.
    """
    network, params = autoencoder.load(path)
    devices = jax.local_devices()
    mesh = jax.make_mesh(
      (len(devices),),
      ("data",),
      (jax.sharding.AxisType.Auto,),
      devices=devices,
    )
    self._split = NamedSharding(mesh, P("data"))
    self._params = jax.device_put(params, NamedSharding(mesh, P()))
    self._encode = jax.jit(
      jax.shard_map(
        _moments(network.encode, image_range),
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=P("data"),
      )
    )
    self.batch = device_batch * len(devices)
    self.factor = network.config.factor
    self.channels = 2 * network.config.latent_channels
    self.software = {
      "jax": jax.__version__,
      "device": devices[0].device_kind,
      "batch": device_batch,
    }
    self.checksum = _digest(path)

  def __call__(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the latents of images in order.

    While the devices encode one batch, the next is gathered.

    Args:
      images: uint8 [H, W, 3] each.

    Yields:
      Means and deviations, float16 [h, w, 2 C] each.
    """
    running: tuple[Array, int] | None = None
    images = iter(images)
    while chunk := list(itertools.islice(images, self.batch)):
      count = len(chunk)
      chunk += [np.zeros_like(chunk[0])] * (self.batch - count)
      batch = jax.device_put(np.stack(chunk), self._split)
      started = self._encode(self._params, batch), count
      if running:
        yield from _fetch(*running)
      running = started
    if running:
      yield from _fetch(*running)


def _moments(
  encode: Callable, image_range: tuple[float, float]
) -> Callable[[Array, Array], Array]:
  """Returns the function from parameters and images to stored latents."""
  low, high = image_range

  def moments(params, images):
    scaled = images.astype(jnp.float32) / 255.0 * (high - low) + low
    pair = jnp.concatenate(encode(params, scaled), axis=-1)
    return pair.astype(jnp.float16)

  return moments


def _fetch(latents: Array, count: int) -> Iterator[np.ndarray]:
  """Waits for a batch and yields its first `count` latents."""
  try:
    yield from np.asarray(latents)[:count]
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise UserError(
      "a batch of images does not fit the devices' memory; give a smaller "
      "--batch-size, and another --out or --name if some shards are done"
    ) from error


def _digest(path: str | os.PathLike[str]) -> str:
  path = pathlib.Path(path)
  path = path / autoencoder.WEIGHTS if path.is_dir() else path
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
