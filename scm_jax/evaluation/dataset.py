"""A dataset's images in batches, however they are stored, and its identity."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from scm_jax.data import sources
from scm_jax.errors import UserError
from scm_jax.evaluation.observers import LabelCollector
from scm_jax.metrics.streaming import Batches, Extraction, pad_batch
from scm_jax.sampler import Sampler

_FINGERPRINTED = 1024  # elements that a fingerprint is made of, at most
_THREADS = 8  # threads that read and decode elements


class ImageDataset:
  """The images and labels of one split of a dataset, in its order.

  Attributes:
    data: the section of the config that describes the dataset.
    source: the elements.
    model: the sampler that makes images of stored latents.
  """

  def __init__(self, data: ConfigDict, reference: str, model: Sampler):
    """Opens the dataset.

    Args:
      data: the section of the config that describes the training data.
      reference: `name` or `name:split` of another dataset, or "".
      model: the run's sampler.

    Raises:
      UserError, ConfigError: see `sources.open_source`.
    """
    self.data = data = data.copy_and_resolve_references()
    if reference:
      data.name, _, split = reference.partition(":")
      data.split = split or data.split
    elif not data.name:
      raise UserError(
        "an imported network has no training data to compare with; name a "
        "dataset or a file: --reference=NAME[:SPLIT] or --reference=FILE"
      )
    self.source = sources.open_source(data)
    self.model = model

  def __len__(self) -> int:
    return len(self.source)

  def fingerprint(self) -> str:
    """Returns a hex digest of its metadata and up to 1,024 of its elements."""
    data, count = self.data, len(self)
    head = [data.name, data.split, data.kind, data.size, data.channels, count]
    if data.kind == "latents":
      codec: Any = self.model.codec
      head += [codec.mean, codec.std, codec.image_range, "truncated"]
    digest = hashlib.sha256(repr(head).encode())
    used = min(count, _FINGERPRINTED)
    for i in range(used):
      element = self.source[i * count // used]
      digest.update(np.ascontiguousarray(element["image"]).tobytes())
      digest.update(str(element["label"]).encode())
    if data.kind == "latents":
      for leaf in jax.tree.leaves(self.model.decoder):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()

  def batches(
    self, extraction: Extraction, size: int, collector: LabelCollector
  ) -> Batches:
    """Returns the images in batches, as `streaming.collect` takes them.

    Args:
      extraction: tells the devices.
      size: number of images in a batch.
      collector: is told the labels of each batch.
    """
    decoder = jax.device_put(self.model.decoder, extraction.replicated)

    def batches(samples: range) -> Iterator[Any]:
      with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(samples.start, samples.stop, size):
          index = range(first, min(first + size, samples.stop))
          elements = list(pool.map(self.source.__getitem__, index))
          collector.expect(first, [element["label"] for element in elements])
          stored = np.stack([element["image"] for element in elements])
          stored = jax.device_put(pad_batch(stored, size), extraction.sharding)
          yield self._images(stored, first, decoder)

    return batches

  def everything(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images, uint8 [N, H, W, C], and labels of a small dataset."""
    images, labels, size = [], [], 256
    for first in range(0, len(self), size):
      index = range(first, min(first + size, len(self)))
      elements = [self.source[i] for i in index]
      stored = np.stack([element["image"] for element in elements])
      made = self._images(pad_batch(stored, size), first, self.model.decoder)
      images.append(np.asarray(made)[: len(elements)])
      labels += [element["label"] for element in elements]
    return np.concatenate(images), np.asarray(labels)

  def _images(self, stored: Any, first: int, decoder: Any) -> Any:
    """Returns images of stored elements, of which `first` is the first."""
    if self.data.kind != "latents":
      return stored
    codec = self.model.codec
    return _decoded(codec, decoder, stored, first + np.arange(len(stored)))


def _decode(codec: Any, decoder: Any, stored: Array, index: Array) -> Array:
  """Returns images of stored latents, each drawn by its index as the key."""
  key = jax.random.key(0)

  def x0(stored, i):
    return codec.encode(stored[None], jax.random.fold_in(key, i))[0]

  return codec.decode(jax.vmap(x0)(stored, index), decoder)


_decoded = jax.jit(_decode, static_argnums=0)
