"""Opening a dataset by its name: random access to images and labels.

Datasets are TFDS datasets in ArrayRecord files. Those that the project brings
are built on first use; any other is opened where TFDS has prepared it. Reading
imports no TensorFlow.
"""

import contextlib
import importlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from scm_jax import spelling
from scm_jax.data import bundled, elements
from scm_jax.errors import ConfigError, UserError

MANIFEST = "manifest.json"  # what `scm-jax prepare` writes beside a dataset

# The project's own datasets: the module and class of the builder, and the title
# that reports show.
BUILT_IN = {
  "scm_digits": ("scm_jax.data.digits", "ScmDigits", "digits"),
  "scm_mnist5k": ("scm_jax.data.mnist", "ScmMnist5k", "MNIST"),
  "scm_patches": ("scm_jax.data.patches", "ScmPatches", "patches"),
  "scm_patch_latents": (
    "scm_jax.data.patches",
    "ScmPatchLatents",
    "patch latents",
  ),
}


def open_source(data: ml_collections.ConfigDict) -> elements.RecordSource:
  """Opens a dataset and checks that it is what the config says.

  Args:
    data: config.data, of which `kind`, `name` (a TFDS name, with config and
      version if need be), `split` (a TFDS split or slice, as `train[:80%]`),
      `data_dir` ('' for TFDS's default), `size`, `channels` and `num_classes`
      (0: labels are of no interest) are read.

  Raises:
    ConfigError: no such split, or images or labels other than configured.
    UserError: the dataset is not there, cannot be built or cannot be read.
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
  except Exception as e:  # remote file systems have errors of their own
    raise UserError(
      f"dataset {data.name!r} cannot be opened in {root}: {_one_line(e)}"
    ) from e


def built_in(
  name: str, variant: str, root: epath.Path
) -> tfds.core.DatasetBuilder:
  """One of the project's own datasets, built in `root` if it is not there."""
  module, cls, _ = BUILT_IN[name]
  # TFDS registers the class when its module is imported: here, not earlier.
  builder_cls = getattr(importlib.import_module(module), cls)
  variants = [config.name for config in builder_cls.BUILDER_CONFIGS]
  if variant and variant not in variants:
    near = spelling.hint(variant, variants)
    raise ConfigError(f"dataset '{name}/{variant}' is not built in; {near}")
  builder = builder_cls(
    config=variant or None, data_dir=root, file_format="array_record"
  )
  bundled.prepare(builder)
  # Anew: if another process has built the dataset, `builder` knows no splits.
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
  """Raises ConfigError for latents of images in another range."""
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
