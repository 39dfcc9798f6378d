"""Opening a dataset by its name: random access to images and labels.

Datasets are TFDS datasets in ArrayRecord files. The two that the project
builds itself are built on first use; any other is opened where TFDS has
prepared it. Reading imports no TensorFlow. Small datasets are kept decoded in
memory, so that reading them costs microseconds from the second epoch on.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Protocol, TypedDict

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from scm_jax.data import bundled
from scm_jax.errors import ConfigError, UserError

# The project's own datasets: name -> module and class of the builder.
BUILT_IN = {
  "scm_digits": ("scm_jax.data.digits", "ScmDigits"),
  "scm_mnist5k": ("scm_jax.data.mnist", "ScmMnist5k"),
}

# Datasets of at most so many bytes of pixels are kept decoded: CIFAR-10 (154
# MB) is, ImageNet at 64x64 (16 GB) is not.
CACHE_BYTES = 256 * 2**20


class Element(TypedDict):
  image: np.ndarray
  label: int


class Source(Protocol):
  """What the pipeline reads from; `image` may be any array of a fixed shape."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Element: ...


class ImageSource:
  """Images padded to one size, and their labels.

  Attributes:
    records: elements with an `image`, uint8 [H, W, C], and perhaps a `label`.
    size: height and width of the images returned; smaller ones are padded.
  """

  def __init__(self, records: Sequence[Any], size: int, channels: int):
    self.records = records
    self.size = size
    image_bytes = size * size * channels
    self._cached = len(records) * image_bytes <= CACHE_BYTES
    self._cache: dict[int, Element] = {}

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Element:
    """Returns `image`, uint8 [size, size, C], read-only, and `label`, int.

    Elements without a label have the label 0.

    Raises:
      IndexError: the index is not in 0..len-1.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"index {index} is not in 0..{len(self) - 1}")
    if index in self._cache:
      element = self._cache[index]
    else:
      record = self.records[index]
      image = pad(record["image"], self.size)
      image.flags.writeable = False
      element = Element(image=image, label=int(record.get("label", 0)))
      if self._cached:
        self._cache[index] = element
    return element.copy()


def pad(image: np.ndarray, size: int) -> np.ndarray:
  """Returns a copy of [H, W, C] centred in zeros [size, size, C].

  Where the difference is odd, the extra row or column is below or right.
  """
  height, width, channels = image.shape
  top, left = (size - height) // 2, (size - width) // 2
  padded = np.zeros((size, size, channels), image.dtype)
  padded[top : top + height, left : left + width] = image
  return padded


def open_source(data: ml_collections.ConfigDict) -> ImageSource:
  """Opens a dataset and checks that it is what the config says.

  Args:
    data: config.data, of which `name` (a TFDS name, with config and version if
      need be), `split` (a TFDS split or slice, as `train[:80%]`), `data_dir`
      ('' for TFDS's default), `size`, `channels` and `num_classes` (0: labels
      are of no interest) are read.

  Raises:
    ConfigError: no such split, or images or labels other than configured.
    UserError: the dataset is not there, cannot be built or cannot be read.
  """
  root = data.data_dir or os.environ.get("TFDS_DATA_DIR", "")
  root = epath.Path(root or "~/tensorflow_datasets").expanduser()
  builder = _find(data.name, root)
  _check_features(dict(builder.info.features.items()), data)
  records = _records(builder, data.name, data.split)
  source = ImageSource(records, data.size, data.channels)
  _read_one(source, builder.data_path)
  return source


def _find(name: str, root: epath.Path) -> tfds.core.DatasetBuilder:
  try:
    return _built_in(name, root) if name in BUILT_IN else _prepared(name, root)
  except UserError:
    raise
  except Exception as e:  # remote file systems have errors of their own
    raise UserError(
      f"dataset {name!r} cannot be opened in {root}: {_one_line(e)}"
    ) from e


def _built_in(name: str, root: epath.Path) -> tfds.core.DatasetBuilder:
  module, cls = BUILT_IN[name]
  # TFDS registers the class when its module is imported: here, not earlier.
  builder_cls = getattr(importlib.import_module(module), cls)
  builder = builder_cls(data_dir=root, file_format="array_record")
  bundled.prepare(builder)
  # Anew: if another process has built the dataset, `builder` knows no splits.
  return tfds.builder_from_directory(builder.data_path)


def _prepared(name: str, root: epath.Path) -> tfds.core.DatasetBuilder:
  try:
    return tfds.core.read_only_builder.builder_from_files(name, data_dir=root)
  except (tfds.core.DatasetNotFoundError, ValueError) as e:
    raise UserError(
      f"dataset {name!r} is neither built in ({', '.join(BUILT_IN)}) nor "
      f"prepared in {root}; prepare it with: {_build_command(name, root)}"
    ) from e


def _records(
  builder: tfds.core.DatasetBuilder, name: str, split: str
) -> Sequence[Any]:
  try:
    records = builder.as_data_source(split=split)
    if len(records) > 0:  # len itself raises where a slice ends too early
      return records
  except NotImplementedError as e:
    raise UserError(
      f"dataset {name!r} in {builder.data_path} is not stored as "
      "array_record; prepare it in another folder with: "
      f"{_build_command(name, 'DIR')}"
    ) from e
  except (ValueError, KeyError, AttributeError) as e:
    cause: Exception | None = e
  else:
    cause = None
  splits = builder.info.splits.values()
  sizes = ", ".join(f"{info.name} ({info.num_examples})" for info in splits)
  raise ConfigError(
    f"config.data.split={split!r} selects no images of {name!r}; "
    f"choose a split or a slice, such as 'train[:80%]', of: {sizes}"
  ) from cause


def _build_command(name: str, root: epath.Path | str) -> str:
  return f"tfds build {name} --file_format=array_record --data_dir={root}"


def _check_features(
  features: dict[str, Any], data: ml_collections.ConfigDict
) -> None:
  """Raises ConfigError unless the features fit the config."""

  def reject(what: str, do: str) -> NoReturn:
    raise ConfigError(f"dataset {data.name!r} has {what}; {do}")

  image = features.get("image")
  if image is None or len(image.shape) != 3 or image.np_dtype != np.uint8:
    reject("no uint8 'image' feature", "choose another config.data.name")
  height, width, channels = image.shape
  if height is None or width is None:
    reject("images of varying size", "prepare a copy of one size")
  if max(height, width) > data.size:
    reject(
      f"{height}x{width} images, larger than config.data.size={data.size}",
      f"set config.data.size to at least {max(height, width)}",
    )
  if channels != data.channels:
    reject(
      f"{channels}-channel images, not config.data.channels={data.channels}",
      f"set config.data.channels={channels}",
    )
  if not data.num_classes:
    return
  label = features.get("label")
  if not isinstance(label, tfds.features.ClassLabel):
    reject("no class 'label' feature", "set config.data.num_classes=0")
  if label.num_classes > data.num_classes:
    reject(
      f"labels 0..{label.num_classes - 1}, more than "
      f"config.data.num_classes={data.num_classes}",
      f"set config.data.num_classes={label.num_classes}",
    )


def _read_one(source: ImageSource, folder: epath.Path) -> None:
  """Raises UserError if the first image cannot be read."""
  try:
    with _only_errors():
      source[0]
  except Exception as e:  # the readers raise anything, RuntimeError included
    raise UserError(
      f"the files in {folder} cannot be read ({_one_line(e)}); "
      "delete that folder and run again"
    ) from e


def _one_line(error: Exception) -> str:
  return " ".join(str(error).split())


@contextlib.contextmanager
def _only_errors() -> Iterator[None]:
  # Decoding its first image, TFDS warns once that OpenCV would be faster.
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)
