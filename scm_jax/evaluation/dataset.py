"""A dataset's images in batches, however they are stored, and its identity."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from scm_jax.data import sources
from scm_jax.defaults import Data
from scm_jax.errors import UserError
from scm_jax.evaluation.observers import LabelCollector
from scm_jax.evaluation.request import PassOptions
from scm_jax.metrics import streaming
from scm_jax.metrics.array_file import PassCheckpoint
from scm_jax.metrics.metric import Arrays, ImageSet
from scm_jax.sampler import Sampler

_FINGERPRINTED = 1024  # elements that a fingerprint is made of, at most
_THREADS = 8  # threads that read and decode elements


def describe(reference: str) -> ConfigDict:
  """Returns the `data` of a config for images of a dataset, `name[:split]`.

  Opening a dataset that does not exist, or has no images, says so.
  """
  name, _, split = reference.partition(":")
  data = ConfigDict(dataclasses.asdict(Data(name=name)))
  data.split = split or data.split
  builder = sources.find(name, sources.folder(data.data_dir))
  features = dict(builder.info.features.items()) if builder else {}
  if (image := features.get("image")) and None not in image.shape:
    *sides, data.channels = image.shape
    data.size = max(sides)
    data.num_classes = getattr(features.get("label"), "num_classes", 0)
  return data


class ImageDataset:
  """The images and labels of one split of a dataset, in its order."""

  def __init__(
    self, data: ConfigDict, model: Sampler | None, reference: str = ""
  ):
    """Opens the training data, which a section of the config describes.

    A reference `name` or `name:split` means another dataset in their place. The
    sampler makes images of stored latents; without one there are none.
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
    self.model: Any = model
    self._decoder = model and model.decoder

  def __len__(self) -> int:
    return len(self.source)

  def fingerprint(self) -> str:
    """Returns a hex digest of its metadata and up to 1,024 of its elements."""
    data, count = self.data, len(self)
    head = [data.name, data.split, data.kind, data.size, data.channels, count]
    if data.kind == "latents":
      codec = self.model.codec
      head += [codec.mean, codec.std, codec.image_range, "truncated"]
    digest = hashlib.sha256(repr(head).encode())
    used = min(count, _FINGERPRINTED)
    for i in range(used):
      element = self.source[i * count // used]
      digest.update(np.ascontiguousarray(element["image"]).tobytes())
      digest.update(str(element["label"]).encode())
    if data.kind == "latents":
      for leaf in jax.tree.leaves(self._decoder):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()

  def collect(
    self,
    extraction: streaming.Extraction,
    options: PassOptions,
    checkpoint: PassCheckpoint,
  ) -> tuple[ImageSet, Arrays]:
    """Returns statistics, and the state of a `LabelCollector`, by one pass."""
    collector = LabelCollector(by_class=bool(self.data.num_classes))
    size = extraction.process_batch_size(min(options.batch_size, len(self)))
    decoder = jax.device_put(self._decoder, extraction.replicated)

    def batches(samples: range) -> Iterator[Any]:
      for first, labels, stored in self._stored(samples, size):
        collector.expect(first, labels)
        stored = jax.device_put(stored, extraction.sharding)
        yield self._images(stored, first, decoder)

    statistics = streaming.collect(
      extraction,
      batches,
      len(self),
      keep=options.keep,
      observer=collector,
      checkpoint=checkpoint,
    )
    return statistics, collector.state()

  def everything(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images, uint8 [N, H, W, C], and labels of a small dataset."""
    images, labels = [], []
    for first, found, stored in self._stored(range(len(self)), size=256):
      made = self._images(stored, first, self._decoder)
      images.append(np.asarray(made)[: len(found)])
      labels += found
    return np.concatenate(images), np.asarray(labels)

  def read(self, index: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns images as they are stored, [n, ...], and their labels [n]."""
    with ThreadPoolExecutor(_THREADS) as pool:
      elements = list(pool.map(self.source.__getitem__, index))
    stored = np.stack([element["image"] for element in elements])
    return stored, np.asarray([e["label"] for e in elements], np.int32)

  def _stored(
    self, samples: range, size: int
  ) -> Iterator[tuple[int, list[int], np.ndarray]]:
    """Yields each batch's first sample, labels and elements [size, ...]."""
    for first in range(samples.start, samples.stop, size):
      stored, labels = self.read(range(first, min(first + size, samples.stop)))
      yield first, labels.tolist(), streaming.pad_batch(stored, size)

  def _images(self, stored: Any, first: int, decoder: Any) -> Any:
    """Returns images of stored elements, of which `first` is the first."""
    if self.data.kind != "latents":
      return stored
    index = first + np.arange(len(stored))
    return _decode(self.model.codec, decoder, stored, index)


@functools.partial(jax.jit, static_argnums=0)
def _decode(codec: Any, decoder: Any, stored: Array, index: Array) -> Array:
  """Returns images of stored latents, each drawn by its index as the key."""
  key = jax.random.key(0)

  def x0(stored, i):
    return codec.encode(stored[None], jax.random.fold_in(key, i))[0]

  return codec.decode(jax.vmap(x0)(stored, index), decoder)
