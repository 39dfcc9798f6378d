"""Images of a TFDS dataset: prepared, built in, or such as TFDS can fetch."""

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from scm_jax import errors
from scm_jax.data import bundled, sources
from scm_jax.errors import ConfigError, UserError
from scm_jax.preparing.index import Index, Item


class TfdsSource:
  """The images of one split as files, not decoded."""

  def __init__(self, name: str, split: str, data_dir: str):
    self.name, self.split = name, split
    self.root = sources.folder(data_dir)

  def index(self) -> Index:
    """Opens the dataset, after downloading it if it is not there.

    Raises:
      ConfigError: there is no such dataset or split, or it holds no images.
      UserError: TFDS cannot fetch the dataset by itself.
    """
    info = self._builder.info
    features = dict(info.features.items())
    if not isinstance(features.get("image"), tfds.features.Image):
      raise ConfigError(f"TFDS dataset {self.name!r} has no 'image' feature")
    label = features.get("label")
    known = isinstance(label, tfds.features.ClassLabel)
    name = f"{info.full_name}:{self.split}"
    items = tuple(Item(str(number)) for number in range(len(self._records)))
    return Index(name, items, tuple(label.names) if known else ())

  def read(self, key: str) -> tuple[bytes, int | None]:
    """Reads one image file and its label, if it has one."""
    example = tf_example_pb2.Example.FromString(self._records[int(key)])
    features = example.features.feature
    labels = [*features["label"].int64_list.value, None]
    return features["image"].bytes_list.value[0], labels[0]

  @functools.cached_property
  def _builder(self) -> tfds.core.DatasetBuilder:
    return sources.find(self.name, self.root) or _fetch(self.name, self.root)

  @functools.cached_property
  def _records(self) -> Sequence[Any]:
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return sources.records(
      self._builder, self.name, self.split, "--split", deserialize_method=raw
    )


def _fetch(name: str, root: epath.Path) -> tfds.core.DatasetBuilder:
  """Has TFDS download a dataset of its catalogue."""
  try:
    builder = tfds.builder(name, data_dir=root, file_format="array_record")
  except (tfds.core.DatasetNotFoundError, ValueError) as error:
    raise ConfigError(
      f"TFDS has no dataset {name!r}, and there is none in {root}; its "
      "catalogue: tensorflow.org/datasets/catalog"
    ) from error
  folder = root / "downloads" / "manual"
  instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
  if instructions and not (folder.exists() and any(folder.iterdir())):
    raise UserError(
      f"{builder.name!r} must be downloaded by hand, because its licence "
      f"requires it: put the files named here into {folder}, still packed, and "
      "run the command again (or unpack them into one folder for each class "
      "and give --source=PATH; see docs/data.md). "
      f"{' '.join(instructions.split())}"
    )
  try:
    return bundled.prepare(builder)
  except UserError:
    raise
  except Exception as error:  # downloads fail in many ways
    raise UserError(
      f"TFDS cannot fetch {name!r}: {errors.one_line(error)}; where there is a "
      f"network, run: {sources.build_command(name, root)}"
    ) from error
