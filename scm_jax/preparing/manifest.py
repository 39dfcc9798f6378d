"""What was done, and how far: `plan.json`, a file for each shard, the manifest.

While a dataset is made, its folder holds `.progress/`: the plan, which all
processes agree on, and the results of each finished shard. When all are there
they are summed into `manifest.json`, the same bytes whoever did what.
"""

import collections
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from scm_jax import files
from scm_jax.errors import UserError

PROGRESS, PLAN, MANIFEST = ".progress", "plan.json", "manifest.json"
FORMAT = 1  # of the manifest


@dataclasses.dataclass
class Shard:
  """A finished shard.

  Attributes:
    file: its name.
    records, bytes, sha256: of the file.
    classes: how many records each label has; empty without labels.
    notes: how many images were special; see `pixels.decode`.
    unreadable: pairs of an item's key and the reason.
    sums: of latents, for each channel: the sums of means, and of means squared
      plus variances, over all positions; empty for images.
    positions: how many positions were summed.
  """

  file: str
  records: int = 0
  bytes: int = 0
  sha256: str = ""
  classes: dict[str, int] = dataclasses.field(default_factory=dict)
  notes: dict[str, int] = dataclasses.field(default_factory=dict)
  unreadable: list[list[str]] = dataclasses.field(default_factory=list)
  sums: list[list[float]] = dataclasses.field(default_factory=list)
  positions: int = 0


def agree(folder: pathlib.Path, plan: dict[str, Any]) -> None:
  """Writes the plan, or checks that it is the one that was begun with.

  Raises:
    UserError: it is another.
  """
  path = folder / PROGRESS / PLAN
  begun = read(path)
  if begun is None:
    files.write_text(path, _text(plan))
    return
  if difference := differences(begun, plan):
    raise UserError(
      f"{folder} was begun with {difference}; go on as it was begun, or choose "
      "another --out or --name"
    )


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
  """`size 64, not 32, crop ...`: the leaves that differ, as old and new."""
  before, now = _flatten(old), _flatten(new)
  return ", ".join(
    f"{key} {_short(before.get(key))}, not {_short(now.get(key))}"
    for key in dict.fromkeys([*before, *now])
    if before.get(key) != now.get(key)
  )


def save_shard(folder: pathlib.Path, shard: Shard) -> None:
  """Remembers a finished shard; its file is in place by now."""
  path = folder / PROGRESS / f"{shard.file}.json"
  files.write_text(path, _text(dataclasses.asdict(shard)))


def load_shard(folder: pathlib.Path, file: str) -> Shard | None:
  """A finished shard, or None; one whose file is not as it was is not."""
  found = read(folder / PROGRESS / f"{file}.json")
  if found is None:
    return None
  try:
    size = (folder / file).stat().st_size
  except FileNotFoundError:
    return None
  return Shard(**found) if size == found["bytes"] else None


def read(path: pathlib.Path) -> dict[str, Any] | None:
  """A JSON object, or None where there is no such file.

  Raises:
    UserError: it cannot be read.
  """
  try:
    return json.loads(path.read_bytes())
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path} cannot be read ({error}); delete its folder and prepare it anew"
    ) from error


def summarize(
  plan: dict[str, Any], classes: list[str], shards: list[Shard]
) -> dict[str, Any]:
  """The manifest of a dataset whose shards are all done."""
  total: collections.Counter[str] = collections.Counter()
  notes: collections.Counter[str] = collections.Counter()
  for shard in shards:
    total.update(shard.classes)
    notes.update(shard.notes)
  unreadable = sorted(pair for shard in shards for pair in shard.unreadable)
  manifest = {
    "format": FORMAT,
    **plan,
    "counts": {
      "records": sum(shard.records for shard in shards),
      "unreadable": len(unreadable),
      "bytes": sum(shard.bytes for shard in shards),
      "special": dict(sorted(notes.items())),
    },
    "classes": [
      {"name": name, "records": total[str(label)]}
      for label, name in enumerate(classes)
    ],
    "unreadable": [{"file": key, "reason": why} for key, why in unreadable],
    "shards": [
      {
        "file": shard.file,
        "records": shard.records,
        "bytes": shard.bytes,
        "sha256": shard.sha256,
      }
      for shard in shards
    ],
  }
  if any(shard.sums for shard in shards):
    manifest["latents"] = _moments(shards)
  return manifest


def _moments(shards: list[Shard]) -> dict[str, list[float]]:
  """Mean and standard deviation of each channel of drawn latents."""
  sums = np.array([shard.sums for shard in shards if shard.sums])
  positions = sum(shard.positions for shard in shards)
  mean, square = sums.sum(axis=0) / positions
  return {"mean": mean.tolist(), "std": np.sqrt(square - mean**2).tolist()}


def save(folder: pathlib.Path, manifest: dict[str, Any]) -> None:
  """Writes the manifest."""
  files.write_text(folder / MANIFEST, _text(manifest))


def _text(content: Any) -> str:
  return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _flatten(tree: Any, path: str = "") -> dict[str, Any]:
  if not isinstance(tree, dict):
    return {path: tree}
  leaves = {}
  for key, value in tree.items():
    leaves |= _flatten(value, f"{path}.{key}" if path else key)
  return leaves


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 40 else f"{text[:37]}..."
