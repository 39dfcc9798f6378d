"""Makes a dataset shard by shard, by any number of processes, or verifies it.

A shard is a fixed part of the images. It is written whole or not at all, and
its bytes depend on nothing but the images and the options. A run that is killed
therefore goes on with the first shard that is missing, and a second run of the
same command only verifies.
"""

import contextlib
import itertools
import logging
import math
import pathlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

from tqdm import tqdm

from scm_jax.errors import ConfigError, UserError
from scm_jax.preparing import manifest, shards, workers
from scm_jax.preparing.index import Index, shuffled
from scm_jax.preparing.options import TFDS, Options
from scm_jax.preparing.shards import Shard
from scm_jax.preparing.transform import Prepared

_log = logging.getLogger(__name__)
_INTERVAL = 10.0  # seconds between lines of progress


def make(options: Options) -> tuple[dict[str, Any] | None, bool]:
  """Makes this process's shards that are missing, and the manifest if it can.

  Returns:
    The dataset's manifest, or None while other processes' shards are missing;
    and whether all was there before, as it was made.

  Raises:
    ConfigError: the source is not what the options say.
    UserError: the source or the folder cannot be read or written; an image is
      unreadable and `on_error` is `stop`; the folder holds something else.
  """
  folder = options.folder
  made = manifest.read(folder / manifest.MANIFEST)
  if made is not None:
    return made, _verify(options, made)
  index = options.read_index()
  plan = options.plan(index)
  manifest.agree(folder, plan)
  names = manifest.file_names(plan)
  mine = options.mine(len(names))
  todo = [k for k in mine if not manifest.load_shard(folder, names[k])]
  if len(todo) < len(mine):
    _log.info("%d of %d shards are there", len(mine) - len(todo), len(mine))
  for shard in _make_shards(options, index, names, todo):
    manifest.save_shard(folder, shard)
  return manifest.finish(folder, plan, index.classes), False


def _make_shards(
  options: Options, index: Index, names: list[str], todo: list[int]
) -> Iterator[Shard]:
  """Writes the shards `todo` in order, and yields each once it is in place."""
  order, count = shuffled(index.items, options.mirror), len(names)
  # Consecutive items, as many as for any other shard, or one fewer.
  borders = [len(order) * shard // count for shard in range(count + 1)]
  parts = [order[borders[shard] : borders[shard + 1]] for shard in todo]
  items = list(itertools.chain.from_iterable(parts))
  processes = min(options.workers, math.ceil(len(items) / workers.CHUNK))
  source = options.source, options.split, options.tfds_dir
  how = options.transform
  stream = workers.prepare_all(source, how, items, max(processes, 1))
  with (
    contextlib.closing(stream),
    tqdm(desc="images", total=len(items), mininterval=_INTERVAL) as bar,
  ):
    for shard, part in zip(todo, parts, strict=True):
      own = itertools.islice(stream, len(part))
      yield _make_shard(options, index, options.folder / names[shard], own)
      bar.update(len(part))


def _make_shard(
  options: Options, index: Index, path: pathlib.Path, items: Iterable[Prepared]
) -> Shard:
  """Writes one shard of a part of the items."""
  shard = Shard(path.name)
  labels, notes = Counter[Any](), Counter[str]()

  def readable() -> Iterator[Prepared]:
    for one in items:
      if not one.error:
        yield one
      elif options.on_error == "stop":
        raise UserError(
          f"{one.item.key}: {one.error}; repair it, leave such images out with "
          "--on-error=skip, or remove it and begin in a new folder"
        )
      elif not one.item.mirrored:  # say it once
        _log.warning("left out: %s: %s", one.item.key, one.error)
        shard.unreadable.append([one.item.key, one.error])

  def records() -> Iterator[bytes]:
    encode = options.encoder or iter
    for one in encode(readable()):
      shard.records += 1
      notes.update(one.notes)
      label = one.label if index.classes else None
      if index.classes and label not in range(len(index.classes)):
        raise UserError(
          f"{index.name}: item {one.item.key} has the label {label}, not one "
          f"of {len(index.classes)} classes; choose another --split"
        )
      labels.update([label] if index.classes else [])
      if options.kind == "images":
        yield shards.record("image", one.data, label)
      else:
        shard.add_moments(one.data)
        yield shards.record("latent", one.data.tobytes(), label)

  scratch = options.folder / manifest.PROGRESS
  shard.bytes, shard.sha256 = shards.write(path, scratch, records())
  shard.classes = {str(label): labels[label] for label in sorted(labels)}
  shard.notes = dict(sorted(notes.items()))
  return shard


def _verify(options: Options, made: dict[str, Any]) -> bool:
  """Mends this process's shards; returns whether all were as they were made."""
  folder, entries = options.folder, made["shards"]
  now = {
    "split": options.stored_split,
    "preprocessing": options.preprocessing(),
  }
  manifest.check_same(folder, made, now)
  _check_source(options, made)
  mine = options.mine(len(entries))
  _log.info("verifying %d of %d shards in %s", len(mine), len(entries), folder)

  def is_as_made(k: int) -> bool:
    path, entry = folder / entries[k]["file"], entries[k]
    wanted = entry["bytes"], entry["sha256"]
    return path.exists() and shards.digest(path) == wanted

  with futures.ThreadPoolExecutor(options.workers) as pool:
    same = pool.map(is_as_made, mine)
    with tqdm(same, "shards", len(mine), mininterval=_INTERVAL) as bar:
      damaged = [k for k, whole in zip(mine, bar, strict=True) if not whole]
  if damaged:
    _repair(options, made, damaged)
  if not (folder / manifest.FEATURES).exists():
    manifest.write_metadata(folder, made)
  return not damaged


def _check_source(options: Options, made: dict[str, Any]) -> None:
  """Raises UserError if the images are others than those of the dataset.

  Names and labels are compared. The images may have been removed since, which
  is said, or moved. TFDS's own are not fetched again for it: their dataset and
  split are compared.
  """
  if options.source.startswith(TFDS):
    asked, name = options.source.removeprefix(TFDS), made["source"]["name"]
    full_name, _, split = name.partition(":")
    # TFDS's full name also has a default config, and the version.
    same = f"{full_name}/".startswith(f"{asked.partition(':')[0]}/")
    if not same or split != options.split:
      now = made["source"] | {"name": f"{asked}:{options.split}"}
      manifest.check_same(options.folder, made, {"source": now})
    return
  try:
    index = options.read_index()
  except ConfigError:
    raise
  except UserError as error:
    _log.warning("only the dataset itself is verified, because %s", error)
    return
  found = options.plan(index)["source"]
  same = {key: found[key] for key in ("items", "classes", "sha256")}
  now = {"source": made["source"] | same}
  manifest.check_same(options.folder, made, now)


def _repair(options: Options, made: dict[str, Any], damaged: list[int]) -> None:
  """Makes damaged shards again, which must come out as they were."""
  folder, entries = options.folder, made["shards"]
  names = [entry["file"] for entry in entries]
  for k in damaged:
    _log.warning("%s is missing or damaged: again", names[k])
  index = options.read_index()
  plan = options.plan(index)
  now = {key: plan[key] for key in ("source", "software")}
  manifest.check_same(folder, made, now)
  again = _make_shards(options, index, names, damaged)
  for k, shard in zip(damaged, again, strict=True):
    if shard.sha256 != entries[k]["sha256"]:
      raise UserError(
        f"{folder / shard.file} is not as it was before, because the images "
        "have changed; delete the folder and prepare the dataset again"
      )
  shutil.rmtree(folder / manifest.PROGRESS, ignore_errors=True)
