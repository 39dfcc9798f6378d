"""Opens a dataset by its name for random access to images and labels.

Datasets are TFDS datasets in ArrayRecord files. The built-in ones are built on
first use; any other is opened in the folder in which it was prepared. Reading
does not import TensorFlow.
"""

import contextlib
import importlib
import json
import os
from collections.abc import Iterator, Sequence
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
  """A dataset that is built in.

  Attributes:
    module: the module of the dataset's builder.
    builder: the name of the builder's class.
    title: the dataset's name in reports.
  """

  module: str
  builder: str
  title: str


# To add a dataset, write its builder's module and add a line here.
BUILT_IN = {
  "scm_digits": BuiltIn("scm_jax.data.digits", "ScmDigits", "digits"),
  "scm_mnist5k": BuiltIn("scm_jax.data.mnist", "ScmMnist5k", "MNIST"),
  "scm_patches": BuiltIn("scm_jax.data.patches", "ScmPatches", "patches"),
  "scm_patch_latents": BuiltIn(
    "scm_jax.data.patches", "ScmPatchLatents", "patch latents"
  ),
}


def open_source(data: ml_collections.ConfigDict) -> elements.RecordSource:
  """Opens a dataset and checks it against the config.

  Args:
    data: `config.data`, of which these fields are read: `kind`, `name` (a TFDS
      name, optionally with config and version), `split` (a TFDS split or slice
      such as `train[:80%]`), `data_dir` ('' for TFDS's default), `size`,
      `channels` and `num_classes` (0 if labels are not used).

  Raises:
    ConfigError: there is no such split, or the images or labels do not match
      the config.
    UserError: the dataset does not exist, cannot be built or cannot be read.
  """
  root = data.data_dir or os.environ.get("TFDS_DATA_DIR", "")
  root = epath.Path(root or "~/tensorflow_datasets").expanduser()
  builder = _find(data, root)
  elements.check_features(dict(builder.info.features.items()), data)
  _check_manifest(builder.data_path / MANIFEST, data)
  records = _records(builder, data.name, data.split)
  source = elements.make_source(records, data)
  _read_one(source, builder.data_path)
  return source


def _find(
  data: ml_collections.ConfigDict, root: epath.Path
) -> tfds.core.DatasetBuilder:
  name, _, variant = data.name.partition("/")
  try:
    if name in BUILT_IN:
      return built_in(name, variant, root)
    return _prepared(data, root)
  except UserError:
    raise
  except Exception as e:  # remote file systems raise their own errors
    raise UserError(
      f"dataset {data.name!r} cannot be opened in {root}: {_one_line(e)}"
    ) from e


def built_in(
  name: str, variant: str, root: epath.Path
) -> tfds.core.DatasetBuilder:
  """Opens a built-in dataset, and builds it first if it is missing.

  Args:
    name: a key of `BUILT_IN`.
    variant: the builder's config, or "" for its default.
    root: the folder of datasets.
  """
  entry = BUILT_IN[name]
  # TFDS registers the class when its module is imported, so import it late.
  builder_class = getattr(importlib.import_module(entry.module), entry.builder)
  variants = [config.name for config in builder_class.BUILDER_CONFIGS]
  if variant and variant not in variants:
    near = errors.hint(variant, variants)
    raise ConfigError(f"dataset '{name}/{variant}' is not built in; {near}")
  builder = builder_class(
    config=variant or None, data_dir=root, file_format="array_record"
  )
  bundled.prepare(builder)
  # If another process built it, `builder` knows no splits, so open it again.
  return tfds.builder_from_directory(builder.data_path)


def _prepared(
  data: ml_collections.ConfigDict, root: epath.Path
) -> tfds.core.DatasetBuilder:
  name = data.name
  try:
    return tfds.core.read_only_builder.builder_from_files(name, data_dir=root)
  except (tfds.core.DatasetNotFoundError, ValueError) as e:
    command = f"scm-jax prepare --config=... --source=IMAGES --out={root}"
    if data.kind == "latents":
      shape = [data.size, data.size, 2 * data.channels]
      raise UserError(
        f"the latents {name!r} are neither built in nor in {root}; prepare "
        f"them with: {command} --autoencoder=FILE, or any TFDS dataset, as "
        f"array_record, of 'latent' {shape} (an autoencoder's means and "
        "standard deviations) and 'label', and name it in config.data.name and "
        "config.data.data_dir"
      ) from e
    raise UserError(
      f"dataset {name!r} is neither built in ({', '.join(BUILT_IN)}) nor "
      f"prepared in {root}; prepare it with: {command} (see docs/data.md), or, "
      f"as it is in TFDS, with: {_build_command(name, root)}"
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


def _build_command(name: str, root: epath.Path | str) -> str:
  return f"tfds build {name} --file_format=array_record --data_dir={root}"


def _read_one(source: elements.RecordSource, folder: epath.Path) -> None:
  """Raises UserError if the first image cannot be read."""
  try:
    with _only_errors():
      source[0]
  except Exception as e:  # readers raise anything, RuntimeError included
    raise UserError(
      f"the files in {folder} cannot be read ({_one_line(e)}); "
      "delete that folder and run again"
    ) from e


def _one_line(error: Exception) -> str:
  return " ".join(str(error).split())


@contextlib.contextmanager
def _only_errors() -> Iterator[None]:
  """Hides TFDS's warning that OpenCV would decode faster."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)
