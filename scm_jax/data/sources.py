"""Opens a dataset by its name for random access to images and labels.

Datasets are TFDS datasets in ArrayRecord files. The built-in ones are built on
first use; any other is opened in the folder in which it was prepared. Reading
does not import TensorFlow.
"""

import contextlib
import importlib
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from scm_jax import errors
from scm_jax.data import bundled, elements
from scm_jax.errors import ConfigError, UserError

MANIFEST = "manifest.json"  # what `scm-jax prepare` writes beside a dataset


class BuiltIn(NamedTuple):
  """The module and class of a dataset's builder, and its title in reports."""

  module: str
  builder: str
  title: str


_PATCHES = "scm_jax.data.patches"
# To add a dataset, write its builder's module and add a line here.
BUILT_IN = {
  "scm_digits": BuiltIn("scm_jax.data.digits", "ScmDigits", "digits"),
  "scm_mnist5k": BuiltIn("scm_jax.data.mnist", "ScmMnist5k", "MNIST"),
  "scm_patches": BuiltIn(_PATCHES, "ScmPatches", "patches"),
  "scm_patch_latents": BuiltIn(_PATCHES, "ScmPatchLatents", "patch latents"),
}


def open_source(data: ml_collections.ConfigDict) -> elements.RecordSource:
  """Opens the dataset of a `config.data` and checks that it is as it says.

  The dataset's name is TFDS's, optionally with config and version; the split
  may be a slice such as `train[:80%]`.

  Raises:
    ConfigError: there is no such split, or the images or labels do not match
      the config.
    UserError: the dataset does not exist, cannot be built or cannot be read.
  """
  root = folder(data.data_dir)
  builder = find(data.name, root)
  if builder is None:
    raise UserError(_missing(data, root))
  features = dict(builder.info.features.items())
  elements.check_features(features, data)
  _check_manifest(builder.data_path / MANIFEST, data)
  stored = records(builder, data.name, data.split)
  classes = features["label"].names if data.num_classes else ()
  where = str(builder.data_path)
  source = elements.make_source(stored, data, where, classes)
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # TFDS warns that OpenCV is faster
  try:
    source[0]  # damaged files are found before anything else begins
  finally:
    logging.set_verbosity(verbosity)
  return source


def folder(data_dir: str) -> epath.Path:
  """Returns the path of a folder of datasets; "" is TFDS's default."""
  root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  return epath.Path(root).expanduser()


def find(name: str, root: epath.Path) -> tfds.core.DatasetBuilder | None:
  """Opens a dataset; a built-in one is first built if it is missing.

  Returns None if the folder `root` holds no dataset of that name, which may
  have a config and a version, as `NAME/CONFIG`.

  Raises:
    ConfigError: a built-in dataset has no such config.
    UserError: the dataset cannot be built, or the folder cannot be read.
  """
  key, _, variant = name.partition("/")
  try:
    if key in BUILT_IN:
      return _built_in(key, variant, root)
    with contextlib.suppress(tfds.core.DatasetNotFoundError, ValueError):
      return tfds.core.read_only_builder.builder_from_files(name, data_dir=root)
  except UserError:
    raise
  except Exception as e:  # remote file systems raise their own errors
    raise UserError(
      f"dataset {name!r} cannot be opened in {root}: {errors.one_line(e)}"
    ) from e
  return None


def _built_in(
  name: str, variant: str, root: epath.Path
) -> tfds.core.DatasetBuilder:
  entry = BUILT_IN[name]
  # TFDS registers the class when its module is imported, so import it late.
  builder_class = getattr(importlib.import_module(entry.module), entry.builder)
  variants = [config.name for config in builder_class.BUILDER_CONFIGS]
  if variant and variant not in variants:
    near = errors.hint(variant, variants)
    raise ConfigError(f"dataset '{name}/{variant}' is not built in; {near}")
  options = {"data_dir": root, "file_format": "array_record"}
  return bundled.prepare(builder_class(config=variant or None, **options))


def records(
  builder: tfds.core.DatasetBuilder,
  name: str,
  split: str,
  flag: str = "config.data.split",
  **options: Any,
) -> Sequence[Any]:
  """Opens the records of a TFDS split or slice for random access.

  The name and the flag are for messages; the options are further arguments of
  `as_data_source`.

  Raises:
    ConfigError: the split does not exist or is empty.
    UserError: the dataset is not stored as ArrayRecord.
  """
  cause = None
  try:
    found = builder.as_data_source(split=split, **options)
    if len(found) > 0:  # len itself raises where a slice ends too early
      return found
  except NotImplementedError as e:
    raise UserError(
      f"dataset {name!r} in {builder.data_path} is not stored as array_record; "
      f"prepare it in another folder with: {build_command(name, 'DIR')}"
    ) from e
  except (ValueError, KeyError, AttributeError) as e:
    cause = e
  splits = builder.info.splits.values()
  sizes = ", ".join(f"{info.name} ({info.num_examples})" for info in splits)
  raise ConfigError(
    f"{flag}={split!r} selects no images of {name!r}; choose a split or a "
    f"slice, such as 'train[:80%]', of: {sizes}"
  ) from cause


def build_command(name: str, root: epath.Path | str) -> str:
  """Returns the command by which TFDS builds a dataset in a folder."""
  return f"tfds build {name} --file_format=array_record --data_dir={root}"


def _missing(data: ml_collections.ConfigDict, root: epath.Path) -> str:
  """Returns the message about a dataset that does not exist."""
  command = f"scm-jax prepare --config=... --source=IMAGES --out={root}"
  other = f"or, as it is in TFDS, with: {build_command(data.name, root)}"
  if data.kind == "latents":
    command += " --autoencoder=FILE"
    shape = [data.size, data.size, 2 * data.channels]
    other = (
      f"or set config.data.name to a TFDS dataset of 'latent' {shape} (means "
      "and standard deviations) and 'label', as array_record"
    )
  return (
    f"dataset {data.name!r} is neither built in ({', '.join(BUILT_IN)}) nor in "
    f"{root}; prepare it with: {command} (see docs/data.md), {other}; "
    "TFDS_DATA_DIR or config.data.data_dir names another folder of datasets"
  )


def _check_manifest(path: epath.Path, data: ml_collections.ConfigDict) -> None:
  """Raises ConfigError if latents were encoded from images in another range."""
  if data.kind != "latents" or not path.exists():
    return
  stored = json.loads(path.read_text())["preprocessing"].get("image_range")
  if stored is not None and tuple(stored) != tuple(data.image_range):
    raise ConfigError(
      f"dataset {data.name!r} holds latents of images in {stored}, not in "
      f"config.data.image_range={list(data.image_range)}; choose another "
      "dataset, or the config of those latents"
    )
