"""Shards from the items of a source: read, encoded, written."""

import collections
import itertools
import logging
import math
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scm_jax.errors import UserError
from scm_jax.preparing import manifest, shards
from scm_jax.preparing import workers as workers_lib
from scm_jax.preparing.job import Job
from scm_jax.preparing.listing import Item, Listing, shuffled
from scm_jax.preparing.manifest import Shard
from scm_jax.preparing.moments import Moments
from scm_jax.preparing.progress import Progress
from scm_jax.preparing.workers import Prepared, Work

if TYPE_CHECKING:
  from scm_jax.preparing.latents import Encoder

_log = logging.getLogger(__name__)


def make_shards(
  job: Job,
  encoder: "Encoder | None",
  listing: Listing,
  names: list[str],
  todo: list[int],
) -> Iterator[Shard]:
  """Writes shards, in order; reading goes on over their borders.

  Args:
    job: what to make.
    encoder: for latents of images.
    listing: the source's content.
    names: the files of all shards.
    todo: numbers of those to write.

  Yields:
    Each shard, once its file is in place.
  """
  order = shuffled(listing.items, job.mirror)
  parts = [_part(order, shard, len(names)) for shard in todo]
  form = "png" if job.kind == "images" else "pixels" if encoder else "latents"
  work = Work(job.source, form, job.size, job.channels, job.convention)
  progress = Progress(sum(map(len, parts)), job.kind)
  count = min(job.workers, math.ceil(sum(map(len, parts)) / workers_lib.CHUNK))
  with workers_lib.open_workers(work, max(count, 1)) as workers:
    stream = workers.map(itertools.chain.from_iterable(parts))
    for shard, part in zip(todo, parts, strict=True):
      prepared = itertools.islice(stream, len(part))
      path = job.folder / names[shard]
      yield _make_shard(job, encoder, listing, path, prepared, progress)


def _part(order: list[Item], shard: int, shards: int) -> list[Item]:
  """Consecutive items, as many as for any other shard, or one fewer."""
  start = len(order) * shard // shards
  return order[start : len(order) * (shard + 1) // shards]


def _make_shard(
  job: Job,
  encoder: "Encoder | None",
  listing: Listing,
  path: pathlib.Path,
  prepared: Iterator[Prepared],
  progress: Progress,
) -> Shard:
  result = Shard(path.name)
  labels: collections.Counter[int] = collections.Counter()
  moments = Moments()

  def records() -> Iterator[bytes]:
    readable = _readable(job, result, prepared, progress)
    for item, data in _encoded(readable, encoder):
      label = _checked_label(job, item, listing)
      if label is not None:
        labels[label] += 1
      if job.kind == "images":
        yield shards.record("image", data, label)
      else:
        moments.add(data)
        yield shards.record("latent", data.tobytes(), label)
      result.records += 1

  scratch = job.folder / manifest.PROGRESS
  result.bytes, result.sha256 = shards.write(path, scratch, records())
  result.classes = {str(label): labels[label] for label in sorted(labels)}
  result.notes = dict(sorted(result.notes.items()))
  result.sums, result.positions = moments.sums(), moments.positions
  return result


def _readable(
  job: Job, result: Shard, prepared: Iterator[Prepared], progress: Progress
) -> Iterator[Prepared]:
  """Leaves out what is unreadable, and counts what is special."""
  for one in prepared:
    progress.advance()
    if not one.error:
      for note in one.notes:
        result.notes[note] = result.notes.get(note, 0) + 1
      yield one
      continue
    if job.on_error == "stop":
      raise UserError(
        f"{one.item.key}: {one.error}; mend or remove it, or leave such images "
        "out with --on-error=skip"
      )
    if not one.item.mirrored:  # say it once
      _log.warning("left out: %s: %s", one.item.key, one.error)
      result.unreadable.append([one.item.key, one.error])


def _encoded(
  prepared: Iterator[Prepared], encoder: "Encoder | None"
) -> Iterator[tuple[Prepared, Any]]:
  """Items with what is stored of them; the encoder lags behind its input."""
  if encoder is None:
    for one in prepared:
      yield one, one.data
    return
  waiting: collections.deque[Prepared] = collections.deque()

  def images():
    for one in prepared:
      waiting.append(one._replace(data=None))
      yield one.data

  for latent in encoder(images()):
    yield waiting.popleft(), latent


def _checked_label(job: Job, one: Prepared, listing: Listing) -> int | None:
  if not listing.classes:
    return None
  if one.label is None or not 0 <= one.label < len(listing.classes):
    raise UserError(
      f"{listing.name}: item {one.item.key} has the label {one.label}, not one "
      f"of {len(listing.classes)} classes; choose another --split"
    )
  return one.label
