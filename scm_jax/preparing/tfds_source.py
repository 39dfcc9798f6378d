"""Images of a TFDS dataset: prepared, built in, or such as TFDS can fetch."""

import functools

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from scm_jax.data import bundled, sources
from scm_jax.errors import ConfigError, UserError
from scm_jax.preparing.index import Index, Item


class TfdsSource:
  """The images of one split as files, not decoded."""

  def __init__(self, name: str, split: str, data_dir: str):
    self.name = name
    self.split = split
    self.data_dir = epath.Path(data_dir)

  def index(self) -> Index:
    """Opens the dataset, after downloading it if it is not there.

    Raises:
      ConfigError: there is no such dataset or split, or it holds no images.
      UserError: TFDS cannot fetch the dataset by itself.
    """
    info = self._builder.info
    features = dict(info.features.items())
    if not isinstance(features.get("image"), tfds.features.Image):
      raise ConfigError(
        f"the TFDS dataset {self.name!r} has no 'image' feature"
      )
    label = features.get("label")
    known = isinstance(label, tfds.features.ClassLabel)
    name = f"{info.full_name}:{self.split}"
    items = tuple(Item(str(number)) for number in range(len(self._records)))
    return Index(name, items, tuple(label.names) if known else ())

  def read(self, key: str) -> tuple[bytes, int | None]:
    """Reads one image file and its label, if it has one."""
    example = tf_example_pb2.Example.FromString(self._records[int(key)])
    features = example.features.feature
    label = None
    if "label" in features and features["label"].int64_list.value:
      [label] = features["label"].int64_list.value
    return features["image"].bytes_list.value[0], label

  @functools.cached_property
  def _builder(self) -> tfds.core.DatasetBuilder:
    name, _, variant = self.name.partition("/")
    if name in sources.BUILT_IN:
      return sources.built_in(name, variant, self.data_dir)
    try:
      return tfds.core.read_only_builder.builder_from_files(
        self.name, data_dir=self.data_dir
      )
    except (tfds.core.DatasetNotFoundError, ValueError):
      return self._fetched()

  def _fetched(self) -> tfds.core.DatasetBuilder:
    try:
      builder = tfds.builder(
        self.name, data_dir=self.data_dir, file_format="array_record"
      )
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
      raise ConfigError(
        f"TFDS has no dataset {self.name!r}, and there is none in "
        f"{self.data_dir}; its catalogue: tensorflow.org/datasets/catalog"
      ) from error
    _check_downloaded(builder, self.data_dir / "downloads" / "manual")
    try:
      bundled.prepare(builder)
    except UserError:
      raise
    except Exception as error:  # downloads fail in many ways
      raise UserError(
        f"TFDS cannot fetch {self.name!r}: {' '.join(str(error).split())}; "
        f"where there is a network, run: tfds build {self.name} "
        f"--file_format=array_record --data_dir={self.data_dir}"
      ) from error
    return tfds.builder_from_directory(builder.data_path)

  @functools.cached_property
  def _records(self):
    try:
      return self._builder.as_data_source(
        split=self.split,
        deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
      )
    except NotImplementedError as error:
      raise UserError(
        f"{self._builder.data_path} is not stored as array_record; run: tfds "
        f"build {self.name} --file_format=array_record --data_dir=OTHER_DIR"
      ) from error
    except (ValueError, KeyError) as error:
      splits = ", ".join(self._builder.info.splits)
      raise ConfigError(
        f"the TFDS dataset {self.name!r} has no split {self.split!r}; "
        f"choose from {splits}"
      ) from error


def _check_downloaded(
  builder: tfds.core.DatasetBuilder, folder: epath.Path
) -> None:
  """Raises UserError if files are missing that TFDS must not download."""
  instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
  if instructions and not (folder.exists() and any(folder.iterdir())):
    raise UserError(
      f"{builder.name!r} must be downloaded by hand, because its licence "
      f"requires it: put the files named here into {folder}, still packed, and "
      "run the command again (or unpack them into one folder for each class "
      "and give --source=PATH; see docs/data.md). "
      f"{' '.join(instructions.split())}"
    )
