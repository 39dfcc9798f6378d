"""Encodes images to an autoencoder's latents, on all devices of this process.

Every device encodes batches of the same fixed size, so that a latent depends
neither on the number of devices nor on that of processes. On CPUs its last bit
may (see docs/data.md).
"""

import itertools
import pathlib
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, P
from jax.sharding import Mesh, NamedSharding

from scm_jax.errors import UserError
from scm_jax.interop import autoencoder
from scm_jax.preparing import shards
from scm_jax.preparing.transform import Prepared


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
    self, path: str, image_range: tuple[float, float], device_batch: int
  ):
    """Reads the autoencoder; `device_batch` counts images on one device.

    Raises:
      UserError: there is no such file, or it is not an autoencoder's.
    """
    network, params = autoencoder.load(path)
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), ("data",))
    self._split = NamedSharding(mesh, P("data"))
    self._params = jax.device_put(params, NamedSharding(mesh, P()))
    low, high = image_range

    def moments(params, images):
      scaled = images.astype(jnp.float32) / 255.0 * (high - low) + low
      pair = jnp.concatenate(network.encode(params, scaled), axis=-1)
      return pair.astype(jnp.float16)

    specs = {"in_specs": (P(), P("data")), "out_specs": P("data")}
    self._encode = jax.jit(jax.shard_map(moments, mesh=mesh, **specs))
    self.batch = device_batch * len(devices)
    self.factor = network.config.factor
    self.channels = 2 * network.config.latent_channels
    self.software = {
      "jax": jax.__version__,
      "device": devices[0].device_kind,
      "batch": device_batch,
    }
    file = pathlib.Path(path)
    file = file / autoencoder.WEIGHTS if file.is_dir() else file
    _, self.checksum = shards.digest(file)

  def __call__(self, images: Iterable[Prepared]) -> Iterator[Prepared]:
    """Yields items, in order, with latents in place of their pixels.

    These are means and deviations, float16 [h, w, 2 C]. While the devices
    encode one batch, the next is gathered.
    """
    running: tuple[list[Prepared], Array] | None = None
    images = iter(images)
    while items := list(itertools.islice(images, self.batch)):
      pixels = np.stack([item.data for item in items])
      missing = self.batch - len(items)
      pixels = np.pad(pixels, [(0, missing), (0, 0), (0, 0), (0, 0)])
      pixels = jax.device_put(pixels, self._split)
      started = items, self._encode(self._params, pixels)
      if running:
        yield from _fetch(*running)
      running = started
    if running:
      yield from _fetch(*running)


def _fetch(items: list[Prepared], latents: Array) -> Iterator[Prepared]:
  """Waits for a batch, which may be longer than the items."""
  try:
    found = np.asarray(latents)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise UserError(
      "a batch of images does not fit the devices' memory; give a smaller "
      "--batch-size, and another --out or --name if some shards are done"
    ) from error
  for item, latent in zip(items, found, strict=False):
    yield item._replace(data=latent)
