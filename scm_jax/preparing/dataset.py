"""Makes a dataset shard by shard, by any number of processes, or verifies it.

A shard is a fixed part of the images. It is written whole or not at all, and
its bytes depend on nothing but the images and the options. A run that is killed
therefore goes on with the first shard that is missing, and a second run of the
same command only verifies.
"""

import collections
import contextlib
import itertools
import logging
import math
import pathlib
import shutil
from collections.abc import Iterator
from concurrent import futures
from typing import Any, NamedTuple

from tqdm import tqdm

from scm_jax import configuration
from scm_jax.errors import UserError
from scm_jax.preparing import manifest, shards, workers
from scm_jax.preparing.index import Index, shuffled
from scm_jax.preparing.options import (
  Options,
  make_plan,
  preprocessing,
  read_index,
)
from scm_jax.preparing.shards import Shard
from scm_jax.preparing.transform import Prepared

_log = logging.getLogger(__name__)
_INTERVAL = 10.0  # seconds between lines of progress


class Outcome(NamedTuple):
  """The state of the dataset after a run.

  Attributes:
    manifest: the dataset's manifest; None while other processes' shards are
      missing.
    verified: whether all was there before, and is as it was made.
  """

  manifest: dict[str, Any] | None
  verified: bool = False


def make(options: Options) -> Outcome:
  """Makes this process's shards that are missing, and the manifest if it can.

  Raises:
    ConfigError: the source is not what the options say.
    UserError: the source or the folder cannot be read or written; an image is
      unreadable and `on_error` is `stop`; the folder holds something else.
  """
  made = manifest.read(options.folder / manifest.MANIFEST)
  if made is not None:
    return Outcome(made, _verify(options, made))
  index = read_index(options)
  plan = make_plan(options, index)
  manifest.agree(options.folder, plan)
  names = options.file_names(plan["shards"])
  mine = options.mine(len(names))
  todo = [k for k in mine if not manifest.load_shard(options.folder, names[k])]
  if len(todo) < len(mine):
    _log.info("%d of %d shards are there", len(mine) - len(todo), len(mine))
  for shard in _make_shards(options, index, names, todo):
    manifest.save_shard(options.folder, shard)
  classes = list(index.classes)
  return Outcome(manifest.finish(options.folder, plan, classes, names))


def _make_shards(
  options: Options, index: Index, names: list[str], todo: list[int]
) -> Iterator[Shard]:
  """Writes shards in order; the workers read on over their borders.

  Args:
    options: the dataset to make.
    index: the source's content.
    names: the names of all shards' files.
    todo: the numbers of the shards to write.

  Yields:
    Each shard, once its file is in place.
  """
  order, count = shuffled(index.items, options.mirror), len(names)
  # Consecutive items, as many as for any other shard, or one fewer.
  borders = [len(order) * shard // count for shard in range(count + 1)]
  parts = [order[borders[shard] : borders[shard + 1]] for shard in todo]
  items = list(itertools.chain.from_iterable(parts))
  processes = min(options.workers, math.ceil(len(items) / workers.CHUNK))
  stream = workers.prepare_all(
    options.source, options.transform, items, max(processes, 1)
  )
  with (
    contextlib.closing(stream),
    tqdm(desc="images", total=len(items), mininterval=_INTERVAL) as bar,
  ):
    for shard, part in zip(todo, parts, strict=True):
      path = options.folder / names[shard]
      own = itertools.islice(stream, len(part))
      yield _make_shard(options, index, path, own)
      bar.update(len(part))


def _make_shard(
  options: Options,
  index: Index,
  path: pathlib.Path,
  prepared: Iterator[Prepared],
) -> Shard:
  shard = Shard(path.name)
  labels: collections.Counter[int] = collections.Counter()

  def records() -> Iterator[bytes]:
    for one, data in _encoded(options, _readable(options, shard, prepared)):
      label = _checked_label(options, index, one)
      if label is not None:
        labels[label] += 1
      shard.records += 1
      if options.kind == "images":
        yield shards.record("image", data, label)
      else:
        shard.add_moments(data)
        yield shards.record("latent", data.tobytes(), label)

  scratch = options.folder / manifest.PROGRESS
  shard.bytes, shard.sha256 = shards.write(path, scratch, records())
  shard.classes = {str(label): labels[label] for label in sorted(labels)}
  shard.notes = dict(sorted(shard.notes.items()))
  return shard


def _readable(
  options: Options, shard: Shard, prepared: Iterator[Prepared]
) -> Iterator[Prepared]:
  """Leaves out unreadable items, and counts special ones in the shard."""
  for one in prepared:
    if not one.error:
      for note in one.notes:
        shard.notes[note] = shard.notes.get(note, 0) + 1
      yield one
      continue
    if options.on_error == "stop":
      raise UserError(
        f"{one.item.key}: {one.error}; repair or remove it, or leave such "
        "images out with --on-error=skip"
      )
    if not one.item.mirrored:  # say it once
      _log.warning("left out: %s: %s", one.item.key, one.error)
      shard.unreadable.append([one.item.key, one.error])


def _encoded(
  options: Options, prepared: Iterator[Prepared]
) -> Iterator[tuple[Prepared, Any]]:
  """Yields each item with the data to store; the encoder reads ahead."""
  if options.encoder is None:
    for one in prepared:
      yield one, one.data
    return
  waiting: collections.deque[Prepared] = collections.deque()

  def images():
    for one in prepared:
      waiting.append(one._replace(data=None))
      yield one.data

  for latent in options.encoder(images()):
    yield waiting.popleft(), latent


def _checked_label(options: Options, index: Index, one: Prepared) -> int | None:
  if not index.classes:
    return None
  if one.label is None or not 0 <= one.label < len(index.classes):
    raise UserError(
      f"{index.name}: item {one.item.key} has the label {one.label}, not one "
      f"of {len(index.classes)} classes; choose another --split"
    )
  return one.label


def _verify(options: Options, made: dict[str, Any]) -> bool:
  """Compares this process's part of a dataset with the manifest; repairs it.

  Returns:
    Whether nothing had to be repaired.

  Raises:
    UserError: the dataset was made with other options, or a shard cannot be
      made again as it was.
  """
  folder = options.folder
  now = {"split": options.split, "preprocessing": preprocessing(options)}
  before = {key: made[key] for key in now}
  if changes := configuration.diff(before, now):
    raise UserError(
      f"{folder} was made with other options ({', '.join(changes)}); choose "
      "another --out or --name"
    )
  entries = made["shards"]
  mine = options.mine(len(entries))
  _log.info("verifying %d of %d shards in %s", len(mine), len(entries), folder)
  with futures.ThreadPoolExecutor(options.workers) as pool:
    same = pool.map(lambda k: _is_as_made(folder, entries[k]), mine)
    with tqdm(same, "shards", len(mine), mininterval=_INTERVAL) as bar:
      damaged = [k for k, whole in zip(mine, bar, strict=True) if not whole]
  if damaged:
    _repair(options, made, damaged)
  if not manifest.is_dataset(folder):
    manifest.write_metadata(folder, made)
  return not damaged


def _is_as_made(folder: pathlib.Path, entry: dict[str, Any]) -> bool:
  try:
    size, checksum = shards.digest(folder / entry["file"])
  except FileNotFoundError:
    return False
  return (size, checksum) == (entry["bytes"], entry["sha256"])


def _repair(options: Options, made: dict[str, Any], damaged: list[int]) -> None:
  """Makes damaged shards again, which must come out as they were."""
  entries = made["shards"]
  for k in damaged:
    _log.warning("%s is missing or damaged: again", entries[k]["file"])
  index = read_index(options)
  plan = make_plan(options, index)
  before, now = (
    {key: content[key] for key in ("source", "software")}
    for content in (made, plan)
  )
  if changes := configuration.diff(before, now):
    raise UserError(
      f"{options.folder}: {entries[damaged[0]]['file']} is damaged and cannot "
      f"be made again as it was ({', '.join(changes)}); delete the folder and "
      "prepare the dataset again"
    )
  names = [entry["file"] for entry in entries]
  again = _make_shards(options, index, names, damaged)
  for k, shard in zip(damaged, again, strict=True):
    if shard.sha256 != entries[k]["sha256"]:
      raise UserError(
        f"{options.folder / shard.file} is not as it was before, because the "
        "images have changed; delete the folder and prepare the dataset again"
      )
  shutil.rmtree(options.folder / manifest.PROGRESS, ignore_errors=True)
