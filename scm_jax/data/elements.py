"""Turns a dataset's records into elements of one shape: images, or latents.

The records' features are checked against the config before any is read. Small
datasets are kept decoded in memory, so that reading them costs microseconds
from the second epoch on.
"""

from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, TypedDict

import ml_collections
import numpy as np
import tensorflow_datasets as tfds

from scm_jax.errors import ConfigError

# Datasets of at most this many bytes are kept decoded: CIFAR-10 (154 MB) is,
# ImageNet at 64x64 (16 GB) is not.
CACHE_BYTES = 256 * 2**20


class Element(TypedDict):
  """One image, or one latent under the key `image`, and its label."""

  image: np.ndarray
  label: int


class Source(Protocol):
  """A sequence of elements with equal shapes, for example a list of dicts."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Element: ...


class RecordSource:
  """The elements of a dataset's records; subclasses read a record's array.

  Attributes:
    records: records with the feature that the subclass reads, and perhaps a
      `label`.
  """

  def __init__(self, records: Sequence[Any], element_bytes: int):
    self.records = records
    self._cached = len(records) * element_bytes <= CACHE_BYTES
    self._cache: dict[int, Element] = {}

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Element:
    """Returns the element at an index, with a read-only image.

    The label is 0 if the records have none.

    Raises:
      IndexError: the index is not in 0..len-1.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"index {index} is not in 0..{len(self) - 1}")
    if index in self._cache:
      element = self._cache[index]
    else:
      record = self.records[index]
      array = self.read(record)
      array.flags.writeable = False
      element = Element(image=array, label=int(record.get("label", 0)))
      if self._cached:
        self._cache[index] = element
    return element.copy()

  def read(self, record: Any) -> np.ndarray:
    """Returns the array of one record."""
    raise NotImplementedError


class ImageSource(RecordSource):
  """Images, uint8 [size, size, C]; smaller ones are padded with zeros."""

  def __init__(self, records: Sequence[Any], size: int, channels: int):
    super().__init__(records, size * size * channels)
    self.size = size

  def read(self, record: Any) -> np.ndarray:
    return pad(record["image"], self.size)


class LatentSource(RecordSource):
  """Latents as stored: means and standard deviations [size, size, 2 C]."""

  def __init__(self, records: Sequence[Any], size: int, channels: int):
    super().__init__(records, size * size * 2 * channels * 4)

  def read(self, record: Any) -> np.ndarray:
    return np.asarray(record["latent"])


def pad(image: np.ndarray, size: int) -> np.ndarray:
  """Returns a copy of an image [H, W, C] centred in zeros [size, size, C].

  Where the difference is odd, the extra row or column is below or right.
  """
  height, width, channels = image.shape
  top, left = (size - height) // 2, (size - width) // 2
  padded = np.zeros((size, size, channels), image.dtype)
  padded[top : top + height, left : left + width] = image
  return padded


def make_source(
  records: Sequence[Any], data: ml_collections.ConfigDict
) -> RecordSource:
  """Returns the source for a config's `data.kind`."""
  source = {"images": ImageSource, "latents": LatentSource}[data.kind]
  return source(records, data.size, data.channels)


def check_features(
  features: dict[str, Any], data: ml_collections.ConfigDict
) -> None:
  """Raises ConfigError unless a dataset's features fit the config."""
  if data.kind == "latents":
    _check_latents(features.get("latent"), data)
  else:
    _check_images(features.get("image"), data)
  if not data.num_classes:
    return
  label = features.get("label")
  if not isinstance(label, tfds.features.ClassLabel):
    _reject(data, "no class 'label' feature", "set config.data.num_classes=0")
  if label.num_classes > data.num_classes:
    _reject(
      data,
      f"labels 0..{label.num_classes - 1}, more than "
      f"config.data.num_classes={data.num_classes}",
      f"set config.data.num_classes={label.num_classes}",
    )


def _check_images(image: Any, data: ml_collections.ConfigDict) -> None:
  if image is None or len(image.shape) != 3 or image.np_dtype != np.uint8:
    what = "no uint8 'image' feature"
    _reject(data, what, "choose another config.data.name")
  height, width, channels = image.shape
  if height is None or width is None:
    _reject(data, "images of varying size", "prepare a copy of one size")
  if max(height, width) > data.size:
    _reject(
      data,
      f"{height}x{width} images, larger than config.data.size={data.size}",
      f"set config.data.size to at least {max(height, width)}",
    )
  if channels != data.channels:
    _reject(
      data,
      f"{channels}-channel images, not config.data.channels={data.channels}",
      f"set config.data.channels={channels}",
    )


def _check_latents(latent: Any, data: ml_collections.ConfigDict) -> None:
  if latent is None or latent.np_dtype not in (np.float16, np.float32):
    what = "no float16 or float32 'latent' feature"
    _reject(data, what, "choose another config.data.name or config.data.kind")
  wanted = (data.size, data.size, 2 * data.channels)
  if tuple(latent.shape) != wanted:
    _reject(
      data,
      f"latents of shape {tuple(latent.shape)}, not {wanted}: means and "
      "deviations",
      "correct config.data.size and config.data.channels",
    )


def _reject(data: ml_collections.ConfigDict, what: str, do: str) -> NoReturn:
  raise ConfigError(f"dataset {data.name!r} has {what}; {do}")
