"""The plan, progress, manifest and TFDS metadata of a prepared dataset.

While a dataset is made, its folder holds `.progress/`: the plan, which all
processes agree on, and a file for each finished shard. Once all shards are
there, these are summed into `manifest.json`, the same bytes whoever made which.
"""

import collections
import dataclasses
import json
import pathlib
import shutil
import uuid
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from scm_jax import configuration, files
from scm_jax.errors import UserError
from scm_jax.preparing.options import VERSION
from scm_jax.preparing.shards import Shard

PROGRESS, PLAN, MANIFEST = ".progress", "plan.json", "manifest.json"
FORMAT = 1  # the manifest's
FEATURES = "features.json"  # TFDS sees no dataset without it


def agree(folder: pathlib.Path, plan: dict[str, Any]) -> None:
  """Writes the plan, or checks that the dataset was begun with the same one.

  Raises:
    UserError: the dataset was begun with another plan.
  """
  path = folder / PROGRESS / PLAN
  begun = read(path)
  if begun is None:
    files.write_text(path, _to_json(plan))
  elif changes := configuration.diff(begun, plan):
    raise UserError(
      f"{folder} was begun with other options ({', '.join(changes)}); continue "
      "with the same, or choose another --out or --name"
    )


def save_shard(folder: pathlib.Path, shard: Shard) -> None:
  """Records that a shard, whose file is in place, is finished."""
  path = folder / PROGRESS / f"{shard.file}.json"
  files.write_text(path, _to_json(dataclasses.asdict(shard)))


def load_shard(folder: pathlib.Path, file: str) -> Shard | None:
  """Reads the record of a finished shard.

  Returns:
    The shard, or None if it is not finished or its file's size has changed.
  """
  found = read(folder / PROGRESS / f"{file}.json")
  if found is None:
    return None
  try:
    size = (folder / file).stat().st_size
  except FileNotFoundError:
    return None
  return Shard(**found) if size == found["bytes"] else None


def read(path: pathlib.Path) -> dict[str, Any] | None:
  """Reads a JSON object, or returns None where there is no such file.

  Raises:
    UserError: the file cannot be read.
  """
  try:
    return json.loads(path.read_bytes())
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path} cannot be read ({error}); delete its folder and prepare the "
      "dataset again"
    ) from error


def finish(
  folder: pathlib.Path,
  plan: dict[str, Any],
  classes: list[str],
  names: list[str],
) -> dict[str, Any] | None:
  """Completes the dataset, unless shards of other processes are missing.

  Args:
    folder: the dataset's folder.
    plan: the dataset's plan.
    classes: the classes' names by label.
    names: the names of all shards' files.

  Returns:
    The manifest, or None if shards are missing.

  Raises:
    UserError: no image could be read.
  """
  found = [load_shard(folder, name) for name in names]
  done = [shard for shard in found if shard]
  if len(done) < len(names):  # or another process has just finished
    return read(folder / MANIFEST)
  if not any(shard.records for shard in done):
    raise UserError(
      f"none of {plan['source']['items']} images can be read; the first: "
      + ": ".join(min(pair for shard in done for pair in shard.unreadable))
    )
  made = _summarize(plan, classes, done)
  files.write_text(folder / MANIFEST, _to_json(made))
  write_metadata(folder, made)
  return made


def _summarize(
  plan: dict[str, Any], classes: list[str], done: list[Shard]
) -> dict[str, Any]:
  """Returns the manifest of a dataset whose shards are all finished."""
  total: collections.Counter[str] = collections.Counter()
  notes: collections.Counter[str] = collections.Counter()
  for shard in done:
    total.update(shard.classes)
    notes.update(shard.notes)
  unreadable = sorted(pair for shard in done for pair in shard.unreadable)
  entry = ("file", "records", "bytes", "sha256")
  manifest = {
    "format": FORMAT,
    **plan,
    "counts": {
      "records": sum(shard.records for shard in done),
      "unreadable": len(unreadable),
      "bytes": sum(shard.bytes for shard in done),
      "special": dict(sorted(notes.items())),
    },
    "classes": [
      {"name": name, "records": total[str(label)]}
      for label, name in enumerate(classes)
    ],
    "unreadable": [{"file": key, "reason": why} for key, why in unreadable],
    "shards": [{key: getattr(shard, key) for key in entry} for shard in done],
  }
  if any(shard.sums for shard in done):
    manifest["latents"] = _moments(done)
  return manifest


def _moments(done: list[Shard]) -> dict[str, list[float]]:
  """Returns the mean and deviation of each channel of drawn latents."""
  sums = np.array([shard.sums for shard in done if shard.sums])
  positions = sum(shard.positions for shard in done)
  mean, square = sums.sum(axis=0) / positions
  return {"mean": mean.tolist(), "std": np.sqrt(square - mean**2).tolist()}


def _to_json(content: Any) -> str:
  return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def write_metadata(folder: pathlib.Path, made: dict[str, Any]) -> None:
  """Makes a folder of shards a TFDS dataset, and removes `.progress/`.

  Args:
    folder: the shards' folder.
    made: the manifest.
  """
  scratch = folder / PROGRESS
  try:
    draft = _draft_metadata(scratch, made)
    # Without the last one, TFDS sees no dataset.
    for path in sorted(draft, key=lambda path: path.name == FEATURES):
      files.write_bytes(folder / path.name, path.read_bytes())
  except FileNotFoundError:
    # Another process, which finished at the same time, has cleared the folder.
    if not is_dataset(folder):
      raise
  shutil.rmtree(scratch, ignore_errors=True)


def is_dataset(folder: pathlib.Path) -> bool:
  """Returns whether the folder is a TFDS dataset."""
  return (folder / FEATURES).exists()


def _draft_metadata(
  scratch: pathlib.Path, made: dict[str, Any]
) -> list[pathlib.Path]:
  """Has TFDS write its files into a folder of their own; returns their paths.

  Args:
    scratch: a folder for unfinished files.
    made: the manifest.
  """
  draft = scratch / f"metadata.{uuid.uuid4().hex}"
  draft.mkdir(parents=True)
  lengths = {entry["file"]: entry["records"] for entry in made["shards"]}
  for file in lengths:  # TFDS takes the dataset's name from them
    (draft / file).touch()
  template = tfds.core.ShardedFileTemplate(
    data_dir=draft,
    dataset_name=next(iter(lengths)).partition("-")[0],
    split=made["split"],
    filetype_suffix="array_record",
  )
  split = tfds.core.SplitInfo(
    name=made["split"],
    shard_lengths=list(lengths.values()),
    num_bytes=made["counts"]["bytes"],
    filename_template=template,
  )
  name = made["source"]["name"]
  tfds.folder_dataset.write_metadata(
    data_dir=draft,
    features=_features(made),
    split_infos=[split],
    version=VERSION,
    description=f"{name}, prepared by scm-jax as manifest.json says.",
    check_data=False,
  )
  return [path for path in draft.iterdir() if path.name not in lengths]


def _features(made: dict[str, Any]) -> Any:
  """Returns TFDS's description of the records."""
  shape = tuple(made["shape"])
  if made["preprocessing"]["kind"] == "images":
    image = tfds.features.Image(shape=shape, encoding_format="png")
    features = {"image": image}
  else:
    latent = tfds.features.Tensor(
      shape=shape, dtype=np.float16, encoding="bytes"
    )
    features = {"latent": latent}
  if names := [entry["name"] for entry in made["classes"]]:
    features["label"] = tfds.features.ClassLabel(names=names)
  return tfds.features.FeaturesDict(features)
