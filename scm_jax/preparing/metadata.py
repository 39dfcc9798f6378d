"""What makes a folder of shards a TFDS dataset."""

import os
import pathlib
import shutil
import socket
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from scm_jax.preparing import manifest, shards

_LAST = "features.json"  # without it, TFDS sees no dataset


def is_there(folder: pathlib.Path) -> bool:
  """Whether the folder is a TFDS dataset."""
  return (folder / _LAST).exists()


def write(folder: pathlib.Path, made: dict[str, Any]) -> None:
  """Makes the folder a TFDS dataset and clears what only the work needed.

  Args:
    folder: of the shards.
    made: the manifest.
  """
  scratch = folder / manifest.PROGRESS
  about = made["preprocessing"]
  latents = about["kind"] == "latents"
  try:
    _write(
      folder,
      scratch,
      _features(
        "latent" if latents else "image",
        tuple(made["shape"]),
        [entry["name"] for entry in made["classes"]],
      ),
      {entry["file"]: entry["records"] for entry in made["shards"]},
      made["split"],
      made["counts"]["bytes"],
      f"{made['source']['name']}, prepared by scm-jax as manifest.json says.",
    )
  except FileNotFoundError:
    # Another process, which finished at the same time, has cleared the folder.
    if not is_there(folder):
      raise
  shutil.rmtree(scratch, ignore_errors=True)


def _features(feature: str, shape: tuple[int, ...], classes: list[str]) -> Any:
  """TFDS's description of the records.

  Args:
    feature: `image` (PNG) or `latent` (float16, as bytes).
    shape: of its arrays.
    classes: names by label; empty for records without a label.
  """
  if feature == "image":
    kind = tfds.features.Image(shape=shape, encoding_format="png")
  else:
    kind = tfds.features.Tensor(shape=shape, dtype=np.float16, encoding="bytes")
  label = tfds.features.ClassLabel(names=classes) if classes else None
  return tfds.features.FeaturesDict(
    {feature: kind, **({"label": label} if label else {})}
  )


def _write(
  folder: pathlib.Path,
  scratch: pathlib.Path,
  features: Any,
  files: dict[str, int],
  split: str,
  size: int,
  description: str,
) -> None:
  """Writes what makes a folder of shards a TFDS dataset.

  `features.json`, without which TFDS sees no dataset, comes last.

  Args:
    folder: of the shards.
    scratch: a folder for unfinished files, on the same disk.
    features: see `_features`.
    files: the shards' names and numbers of records.
    split: their split.
    size: their bytes.
    description: for people.
  """
  draft = scratch / f"metadata.{socket.gethostname()}.{os.getpid()}"
  draft.mkdir(parents=True, exist_ok=True)
  for file in files:  # TFDS takes the dataset's name from them
    (draft / file).touch()
  template = tfds.core.ShardedFileTemplate(
    data_dir=draft,
    dataset_name=next(iter(files)).partition("-")[0],
    split=split,
    filetype_suffix="array_record",
  )
  info = tfds.core.SplitInfo(
    name=split,
    shard_lengths=list(files.values()),
    num_bytes=size,
    filename_template=template,
  )
  tfds.folder_dataset.write_metadata(
    data_dir=draft,
    features=features,
    split_infos=[info],
    version=shards.VERSION,
    description=description,
    check_data=False,
  )
  written = [path for path in draft.iterdir() if path.name not in files]
  for path in sorted(written, key=lambda path: path.name == _LAST):
    os.replace(path, folder / path.name)
