"""The plan, progress, manifest and TFDS metadata of a prepared dataset.

While a dataset is made, its folder holds `.progress/`: the plan, which all
processes agree on, and a file for each finished shard. Once all shards are
there, these are summed into `manifest.json`, the same bytes whoever made which.
"""

import dataclasses
import json
import pathlib
import shutil
import uuid
from collections import Counter
from collections.abc import Sequence
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
  """Writes the plan, or checks that the dataset was begun with the same one."""
  begun = read(folder / PROGRESS / PLAN)
  if begun is None:
    _write(folder / PROGRESS / PLAN, plan)
  else:
    check_same(folder, begun, plan)


def check_same(
  folder: pathlib.Path, made: dict[str, Any], now: dict[str, Any]
) -> None:
  """Raises UserError if `made`, a plan or manifest, differs from `now`.

  Only the entries that `now` has are compared.
  """
  if changes := configuration.diff({key: made[key] for key in now}, now):
    raise UserError(
      f"{folder} was made with other options or images "
      f"({', '.join(changes)}); go on with the same, choose another --out or "
      "--name, or delete the folder and prepare the dataset again"
    )


def save_shard(folder: pathlib.Path, shard: Shard) -> None:
  """Records that a shard, whose file is in place, is finished."""
  _write(folder / PROGRESS / f"{shard.file}.json", dataclasses.asdict(shard))


def load_shard(folder: pathlib.Path, file: str) -> Shard | None:
  """Returns a shard if it is finished and its file has the size that it had."""
  found, path = read(folder / PROGRESS / f"{file}.json"), folder / file
  if found and path.exists() and path.stat().st_size == found["bytes"]:
    return Shard(**found)
  return None


def read(path: pathlib.Path) -> dict[str, Any] | None:
  """Reads a JSON object, or returns None where there is no such file."""
  try:
    return json.loads(path.read_bytes())
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path} cannot be read ({error}); delete its folder and prepare the "
      "dataset again"
    ) from error


def _write(path: pathlib.Path, content: dict[str, Any]) -> None:
  files.write_text(
    path, json.dumps(content, indent=1, ensure_ascii=False) + "\n"
  )


def file_names(plan: dict[str, Any]) -> list[str]:
  """Returns TFDS's names of a dataset's files."""
  stem, count = f"{plan['name']}-{plan['split']}", plan["shards"]
  return [f"{stem}.array_record-{k:05d}-of-{count:05d}" for k in range(count)]


def finish(
  folder: pathlib.Path, plan: dict[str, Any], classes: Sequence[str]
) -> dict[str, Any] | None:
  """Completes a dataset and returns its manifest; None if shards are missing.

  Raises:
    UserError: no image could be read.
  """
  found = [load_shard(folder, name) for name in file_names(plan)]
  done = [shard for shard in found if shard]
  if len(done) < len(found):  # or another process has just finished
    return read(folder / MANIFEST)
  if not any(shard.records for shard in done):
    first = min(pair for shard in done for pair in shard.unreadable)
    raise UserError(
      f"none of {plan['source']['items']} images can be read; the first: "
      f"{': '.join(first)}"
    )
  made = _summarize(plan, classes, done)
  _write(folder / MANIFEST, made)
  write_metadata(folder, made)
  return made


def _summarize(
  plan: dict[str, Any], classes: Sequence[str], done: list[Shard]
) -> dict[str, Any]:
  """Returns the manifest of a dataset whose shards are all finished."""
  total = sum((Counter(shard.classes) for shard in done), Counter())
  notes = sum((Counter(shard.notes) for shard in done), Counter())
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
  if sums := [shard.sums for shard in done if shard.sums]:  # drawn latents'
    positions = sum(shard.positions for shard in done)
    mean, square = np.array(sums).sum(axis=0) / positions
    std = np.sqrt(square - mean**2)
    manifest["latents"] = {"mean": mean.tolist(), "std": std.tolist()}
  return manifest


def write_metadata(folder: pathlib.Path, made: dict[str, Any]) -> None:
  """Makes a folder of shards a TFDS dataset, and removes `.progress/`."""
  draft = folder / PROGRESS / f"metadata.{uuid.uuid4().hex}"
  try:
    with files.writing(folder, "its shards are there; run the command again"):
      _draft_metadata(draft, made)
    # Without the last one, TFDS sees no dataset.
    for path in sorted(draft.iterdir(), key=lambda x: x.name == FEATURES):
      files.write_bytes(folder / path.name, path.read_bytes())
  except FileNotFoundError:
    # Another process, which finished at the same time, has cleared the folder.
    if not (folder / FEATURES).exists():
      raise
  shutil.rmtree(folder / PROGRESS, ignore_errors=True)


def _draft_metadata(draft: pathlib.Path, made: dict[str, Any]) -> None:
  """Has TFDS write its files into a folder of their own."""
  draft.mkdir(parents=True)
  shards = [draft / entry["file"] for entry in made["shards"]]
  for path in shards:  # TFDS takes the dataset's name from them
    path.touch()
  template = tfds.core.ShardedFileTemplate(
    data_dir=draft,
    dataset_name=shards[0].name.partition("-")[0],
    split=made["split"],
    filetype_suffix="array_record",
  )
  lengths = [entry["records"] for entry in made["shards"]]
  split = tfds.core.SplitInfo(
    made["split"], lengths, made["counts"]["bytes"], template
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
  for path in shards:
    path.unlink()


def _features(made: dict[str, Any]) -> Any:
  """Returns TFDS's description of the records."""
  shape, types = tuple(made["shape"]), tfds.features
  if made["preprocessing"]["kind"] == "images":
    features = {"image": types.Image(shape=shape, encoding_format="png")}
  else:
    latent = types.Tensor(shape=shape, dtype=np.float16, encoding="bytes")
    features = {"latent": latent}
  if names := [entry["name"] for entry in made["classes"]]:
    features["label"] = types.ClassLabel(names=names)
  return types.FeaturesDict(features)
