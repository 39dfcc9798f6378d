"""TFDS builders of small datasets that ship inside Python packages.

They need neither the network nor TensorFlow.
"""

import abc
import contextlib
import fcntl
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from scm_jax import errors, files
from scm_jax.errors import UserError


class BundledArrays(
  tfds.core.GeneratorBasedBuilder, abc.ABC, skip_registration=True
):
  """Builder of arrays with labels, in one split named `train`.

  TFDS writes examples in the order of a fixed hash of their keys, so the
  dataset on disk is the same everywhere, and slices such as `train[:80%]` are
  random samples even where the arrays are sorted by class.

  Attributes:
    FEATURE: the name of the array in the records, `image` or `latent`.
    CITATION: the BibTeX entry of the data.
  """

  VERSION = tfds.core.Version("1.0.0")
  # There are no downloads. To look for their checksums, TFDS would import
  # importlib_resources, which it does not declare.
  url_infos = None
  FEATURE: str
  NUM_CLASSES: int
  DESCRIPTION: str
  CITATION: str
  HOMEPAGE: str

  @abc.abstractmethod
  def load_arrays(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns arrays [N, ...] and labels 0..NUM_CLASSES-1, int [N]."""

  @abc.abstractmethod
  def feature(self) -> Any:
    """Returns the TFDS feature of one array."""

  def encode(self, array: np.ndarray) -> Any:
    """Returns one array in the form that the feature takes."""
    return array

  def _info(self) -> tfds.core.DatasetInfo:
    label = tfds.features.ClassLabel(num_classes=self.NUM_CLASSES)
    features = {self.FEATURE: self.feature(), "label": label}
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.DESCRIPTION,
      citation=self.CITATION,
      homepage=self.HOMEPAGE,
      features=tfds.features.FeaturesDict(features),
      supervised_keys=(self.FEATURE, "label"),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    return {"train": self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
    arrays, labels = self.load_arrays()
    for key, (array, label) in enumerate(zip(arrays, labels, strict=True)):
      yield key, {self.FEATURE: self.encode(array), "label": int(label)}


class BundledImages(BundledArrays, skip_registration=True):
  """Builder of square images.

  `load_arrays` returns uint8 [N, SIZE, SIZE, CHANNELS]; grey images may lack
  the last axis.
  """

  FEATURE = "image"
  SIZE: int
  CHANNELS = 1

  def side(self) -> int:
    """Returns the images' height and width in pixels."""
    return self.SIZE

  def feature(self) -> Any:
    shape = (self.side(), self.side(), self.CHANNELS)
    return tfds.features.Image(
      shape=shape, dtype=np.uint8, encoding_format="png"
    )

  def encode(self, array: np.ndarray) -> io.BytesIO:
    wanted = (self.side(), self.side(), self.CHANNELS)
    if array.dtype != np.uint8 or wanted not in (
      array.shape,
      (*array.shape, 1),
    ):
      raise UserError(
        f"the builder of dataset {self.name!r} gives an image of {array.dtype} "
        f"{list(array.shape)}; it must be uint8 {list(wanted)}"
      )
    # Given pixels, TFDS would import TensorFlow (seconds) just to encode them.
    file = io.BytesIO()
    grey = array.shape[2:] == (1,)
    Image.fromarray(array[..., 0] if grey else array).save(file, "PNG")
    file.seek(0)
    return file


def prepare(builder: tfds.core.DatasetBuilder) -> tfds.core.DatasetBuilder:
  """Opens the builder's dataset, after writing it if it is missing.

  TFDS writes into a temporary folder and renames it when everything is written,
  so a dataset that exists is complete. A file lock, which the system releases
  when a process is killed, lets one process build while the others wait, and
  makes it safe to remove what a killed process left behind.

  Raises:
    UserError: the folder cannot be written, lies in a bucket, or a package is
      missing.
  """
  if not builder.data_path.exists():
    _build(builder)
  # If another process built it, `builder` knows no splits, so open it again.
  return tfds.builder_from_directory(builder.data_path)


def _build(builder: tfds.core.DatasetBuilder) -> None:
  folder = builder.data_path.parent
  if files.is_remote(folder):  # buckets have no file locks
    raise UserError(
      f"dataset {builder.name!r} is not in {folder} and is only built on local "
      "disks; build it in a local config.data.data_dir and copy it there"
    )
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not builder.data_path.exists():
        for leftover in folder.glob(f"incomplete.*_{builder.version}"):
          leftover.rmtree()
        logging.info("Building dataset %s in %s.", builder.name, folder)
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
          builder.download_and_prepare()
  except ImportError as e:
    package = errors.missing_package(e)
    if package is None:
      raise
    raise UserError(f"dataset {builder.name!r} {errors.needs(package)}") from e
  except OSError as e:
    raise UserError(
      f"cannot build dataset {builder.name!r} in {folder}: {e.strerror or e}; "
      "name a local, writable folder in config.data.data_dir or in the "
      "environment variable TFDS_DATA_DIR"
    ) from e
