"""A dataset's images in batches, whatever is stored, and what identifies it."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from scm_jax.data import sources
from scm_jax.errors import UserError
from scm_jax.metrics.partial import Arrays
from scm_jax.metrics.streaming import Extraction, fill_up
from scm_jax.sampler import Sampler

_LOOKED_AT = 1024  # elements that a fingerprint is made of, at most
_THREADS = 8  # that read and decode elements
_SHOWN = 10  # classes in a report's picture


class Dataset:
  """Images and labels of one split, in its order.

  Attributes:
    data: the config's section that describes it.
    source: its elements.
    model: makes images of stored latents, as it does of its samples.
  """

  def __init__(self, data: ConfigDict, reference: str, model: Sampler):
    """Opens it.

    Args:
      data: the training data's section.
      reference: `name` or `name:split` instead of the section's, or "".
      model: of the run.

    Raises:
      UserError, ConfigError: see `sources.open_source`.
    """
    self.data = data = data.copy_and_resolve_references()
    if reference:
      data.name, _, split = reference.partition(":")
      data.split = split or data.split
    elif not data.name:
      raise UserError(
        "an imported network has no data of its own; name what to compare "
        "with: --reference=NAME[:SPLIT] or --reference=FILE"
      )
    self.source = sources.open_source(data)
    self.model = model

  def __len__(self) -> int:
    return len(self.source)

  def fingerprint(self) -> str:
    """Hex digest of its name, length and up to 1,024 evenly spaced elements."""
    data, count = self.data, len(self)
    head = [data.name, data.split, data.kind, data.size, data.channels, count]
    if data.kind == "latents":
      codec: Any = self.model.codec
      head += [codec.mean, codec.std, codec.image_range, "truncated"]
    digest = hashlib.sha256(repr(head).encode())
    looked_at = min(count, _LOOKED_AT)
    for i in range(looked_at):
      element = self.source[i * count // looked_at]
      digest.update(np.ascontiguousarray(element["image"]).tobytes())
      digest.update(str(element["label"]).encode())
    if data.kind == "latents":
      for leaf in jax.tree.leaves(self.model.decoder):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()

  def batches(self, extraction: Extraction, size: int, sight: "Sight") -> Any:
    """`streaming.Batches` of its images; `sight` gets the labels."""
    decoder = jax.device_put(self.model.decoder, extraction.whole)

    def batches(samples: range) -> Iterator[Any]:
      with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(samples.start, samples.stop, size):
          index = range(first, min(first + size, samples.stop))
          elements = list(pool.map(self.source.__getitem__, index))
          sight.expect(first, [element["label"] for element in elements])
          stored = np.stack([element["image"] for element in elements])
          stored = jax.device_put(fill_up(stored, size), extraction.sharding)
          yield self._images(stored, first, decoder)

    return batches

  def everything(self) -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 [N, H, W, C], and labels; for small datasets."""
    images, labels, size = [], [], 256
    for first in range(0, len(self), size):
      index = range(first, min(first + size, len(self)))
      elements = [self.source[i] for i in index]
      stored = np.stack([element["image"] for element in elements])
      made = self._images(fill_up(stored, size), first, self.model.decoder)
      images.append(np.asarray(made)[: len(elements)])
      labels += [element["label"] for element in elements]
    return np.concatenate(images), np.asarray(labels)

  def _images(self, stored: Any, first: int, decoder: Any) -> Any:
    if self.data.kind != "latents":
      return stored
    codec = self.model.codec
    return _decoded(codec, decoder, stored, first + np.arange(len(stored)))


def _decode(codec: Any, decoder: Any, stored: Array, index: Array) -> Array:
  """Images of stored latents: one draw of each, a function of its place."""
  key = jax.random.key(0)

  def x0(stored, i):
    return codec.encode(stored[None], jax.random.fold_in(key, i))[0]

  return codec.decode(jax.vmap(x0)(stored, index), decoder)


_decoded = jax.jit(_decode, static_argnums=0)


class Sight:
  """A witness of a dataset's labels, and of ten images for the report.

  They are the first of each of the ten lowest classes, or the first ten.

  Attributes:
    labels: of the samples seen.
  """

  def __init__(self, classes: bool):
    self.labels = np.zeros(0, np.int32)
    self._by_class = classes
    self._shown: dict[int, np.ndarray] = {}  # class or place -> image
    self._expected: dict[int, list[int]] = {}

  def expect(self, start: int, labels: list[int]) -> None:
    """The labels of the batch that begins with sample `start`."""
    self._expected[start] = labels

  def see(self, start: int, count: int, images: Any) -> None:
    """Keeps labels, and images of classes not seen before."""
    new = np.asarray(self._expected.pop(start), np.int32)[:count]
    self.labels = np.concatenate([self.labels, new])
    keys = new if self._by_class else start + np.arange(count)
    for key in sorted(set(keys.tolist()) - set(self._shown)):
      shown = sorted(self._shown)
      if len(shown) >= _SHOWN and key > shown[_SHOWN - 1]:
        break
      self._shown[key] = np.asarray(images[int(np.argmax(keys == key))])
      self._forget()

  def _forget(self) -> None:
    for late in sorted(self._shown)[_SHOWN:]:
      del self._shown[late]

  def state(self) -> Arrays:
    """`labels`, `keys` (classes or places) and their `images`."""
    keys = sorted(self._shown)
    return {
      "labels": self.labels,
      "keys": np.asarray(keys, np.int32),
      "images": np.asarray([self._shown[key] for key in keys], np.uint8),
    }

  def restore(self, state: Any) -> None:
    """See `streaming.Witness`."""
    labels, keys, images = (state[k] for k in ("labels", "keys", "images"))
    self.labels = labels
    self._shown = dict(zip(keys.tolist(), images, strict=True))

  def join(self, states: Iterable[Mapping[str, np.ndarray]]) -> None:
    """See `streaming.Witness`."""
    labels, self._shown = [], {}
    for state in states:
      labels.append(state["labels"])
      for key, image in zip(
        state["keys"].tolist(), state["images"], strict=True
      ):
        self._shown.setdefault(key, image)
    self.labels = np.concatenate(labels)
    self._forget()
