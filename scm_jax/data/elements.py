"""Turns a dataset's records into elements of one shape: images, or latents.

The records' features are checked against the config before any is read.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypedDict

import ml_collections
import numpy as np
import tensorflow_datasets as tfds

from scm_jax import errors
from scm_jax.errors import ConfigError, UserError

_LOG = logging.getLogger(__name__)
# Datasets of at most this many bytes are kept decoded, so that reading them
# costs microseconds from the second epoch on: CIFAR-10 (154 MB) is, ImageNet at
# 64x64 (16 GB) is not.
CACHE_BYTES = 256 * 2**20


class Element(TypedDict):
  """One image, or one latent under the key `image`, and its label."""

  image: np.ndarray
  label: int


class RecordSource:
  """The elements of a dataset's records.

  Attributes:
    records: the records, perhaps with a `label`; without one it is 0.
    read: the function that returns the array of a record.
    where: the folder of the records, for messages.
    classes: the names of the classes that labels stand for, if there are any.
  """

  def __init__(
    self,
    records: Sequence[Any],
    read: Callable[[Any], np.ndarray],
    element_bytes: int,
    where: str,
    classes: Sequence[str] = (),
  ):
    self.records = records
    self.read = read
    self.where = where
    self.classes = classes
    small = len(records) * element_bytes <= CACHE_BYTES
    self._element = functools.cache(self._decode) if small else self._decode

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Element:
    """Returns the element at an index of 0..len-1, with a read-only image.

    Raises:
      UserError: its record cannot be read.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"index {index} is not in 0..{len(self) - 1}")
    return self._element(index).copy()

  def _decode(self, index: int) -> Element:
    try:
      record = self.records[index]
      array = self.read(record)
    except Exception as e:  # readers raise anything, RuntimeError included
      raise UserError(
        f"the files in {self.where} cannot be read ({errors.one_line(e)}); run "
        "the scm-jax prepare that made them again, or, if it was none, delete "
        "that folder and run this again"
      ) from e
    array.flags.writeable = False
    return Element(image=array, label=int(record.get("label", 0)))


def make_source(
  records: Sequence[Any],
  data: ml_collections.ConfigDict,
  where: str,
  classes: Sequence[str],
) -> RecordSource:
  """Returns the elements of records, as a config's `data` describes them.

  They are uint8 images [size, size, C], of which smaller ones are padded with
  zeros, or latents as stored: means and deviations [size, size, 2 C].
  """
  size, positions = data.size, data.size**2 * data.channels
  if data.kind == "latents":
    read = lambda record: np.asarray(record["latent"])
    return RecordSource(records, read, 2 * positions * 4, where, classes)
  read = lambda record: pad(record["image"], size)
  return RecordSource(records, read, positions, where, classes)


def pad(image: np.ndarray, size: int) -> np.ndarray:
  """Returns a copy of an image [H, W, C] centred in zeros [size, size, C].

  Where the difference is odd, the extra row or column is below or right.
  """
  height, width, channels = image.shape
  top, left = (size - height) // 2, (size - width) // 2
  padded = np.zeros((size, size, channels), image.dtype)
  padded[top : top + height, left : left + width] = image
  return padded


def check_features(
  features: dict[str, Any], data: ml_collections.ConfigDict
) -> None:
  """Raises ConfigError unless a dataset's features fit the config."""
  if data.kind == "latents":
    _check_latents(features.get("latent"), data)
  else:
    _check_images(features.get("image"), data)
  label, known = features.get("label"), data.num_classes
  if not known:
    return
  if not isinstance(label, tfds.features.ClassLabel):
    _reject(data, "no class 'label' feature", "set config.data.num_classes=0")
  count = label.num_classes
  if count > known:
    what = f"labels 0..{count - 1}, more than config.data.num_classes={known}"
    _reject(data, what, f"set config.data.num_classes={count}")
  if count < known:
    _LOG.warning(
      "%s has %d classes, and config.data.num_classes is %d: if classes are "
      "missing, the labels of those behind them are wrong",
      *(data.name, count, known),
    )


def _check_images(image: Any, data: ml_collections.ConfigDict) -> None:
  if image is None or len(image.shape) != 3 or image.np_dtype != np.uint8:
    what = "no uint8 'image' feature"
    _reject(data, what, "choose another config.data.name")
  height, width, channels = image.shape
  if height is None or width is None:
    _reject(data, "images of varying size", "prepare a copy of one size")
  if (largest := max(height, width)) > data.size:
    what = f"{height}x{width} images, larger than config.data.size={data.size}"
    _reject(data, what, f"set config.data.size to at least {largest}")
  if channels != data.channels:
    what = (
      f"{channels}-channel images, not config.data.channels={data.channels}"
    )
    _reject(data, what, f"set config.data.channels={channels}")


def _check_latents(latent: Any, data: ml_collections.ConfigDict) -> None:
  if latent is None or latent.np_dtype not in (np.float16, np.float32):
    what = "no float16 or float32 'latent' feature"
    _reject(data, what, "choose another config.data.name or config.data.kind")
  shape, wanted = tuple(latent.shape), (data.size, data.size, 2 * data.channels)
  if shape != wanted:
    what = f"latents of shape {shape}, not {wanted}: means and deviations"
    _reject(data, what, "correct config.data.size and config.data.channels")


def _reject(data: ml_collections.ConfigDict, what: str, do: str) -> NoReturn:
  raise ConfigError(f"dataset {data.name!r} has {what}; {do}")
