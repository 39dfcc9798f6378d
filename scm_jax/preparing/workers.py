"""Reading, cropping and encoding images in many processes, in order."""

import collections
import contextlib
import dataclasses
import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from concurrent.futures import process
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import ImageOps

from scm_jax import errors
from scm_jax.errors import UserError
from scm_jax.preparing import crop, pixels, sources
from scm_jax.preparing.listing import Item, Source

CHUNK = 8  # images that travel between processes together
AHEAD = 4  # chunks for each process that are worked on or waiting


@dataclasses.dataclass(frozen=True)
class Work:
  """What becomes of an image.

  Attributes:
    spec: the source.
    form: `png`, the file to store; `pixels`, an array for the encoder;
      `latents`, stored latents as they are.
    size: side of the image in pixels.
    channels: 3 or 1.
    convention: see `pixels.decode`.
  """

  spec: sources.Spec
  form: Literal["png", "pixels", "latents"]
  size: int
  channels: int
  convention: pixels.Convention


class Prepared(NamedTuple):
  """An item, done.

  Attributes:
    item: which.
    data: a PNG file, pixels uint8 [size, size, C], or latents float16
      [h, w, 2 C]; None if the item is unreadable.
    label: its class, None if it has none.
    notes: what was special; see `pixels.decode`.
    error: why it is unreadable.
  """

  item: Item
  data: Any
  label: int | None
  notes: tuple[str, ...] = ()
  error: str = ""


def prepare(source: Source, work: Work, item: Item) -> Prepared:
  """Reads one item; a bad file becomes an `error`.

  Raises:
    UserError: the disk or the system, not the file, is to blame.
  """
  try:
    data, label = source.read(item.key)
    label = item.label if label is None else label
    if work.form == "latents":
      return Prepared(item, _stored_latents(data, work), label)
    image, notes = pixels.decode(data, work.channels, work.convention)
    image = crop.centre_crop(image, work.size)
  except pixels.UnreadableError as error:
    return Prepared(item, None, None, error=str(error))
  except OSError as error:  # the disk's fault, not the image's: never skipped
    reason = error.strerror or str(error)
    raise UserError(f"{item.key} cannot be read: {reason}") from error
  if item.mirrored:
    image = ImageOps.mirror(image)
  if work.form == "png":
    return Prepared(item, crop.png(image), label, notes)
  return Prepared(item, crop.to_array(image), label, notes)


def stored_shape(size: int) -> list[int]:
  """[h, w, 2 C] of Stable Diffusion's latents of images of that side."""
  return [size // 8, size // 8, 8]


def _stored_latents(data: bytes, work: Work) -> np.ndarray:
  """EDM2's file of one image: means and deviations, [2 C, h, w]."""
  try:
    array = np.load(io.BytesIO(data), allow_pickle=False)
  except Exception as error:  # NumPy raises many kinds for a damaged file
    reason = f"not a NumPy array: {errors.one_line(error)}"
    raise pixels.UnreadableError(reason) from error
  height, width, channels = stored_shape(work.size)
  wanted = [channels, height, width]
  if list(array.shape) != wanted or array.dtype.kind != "f":
    raise pixels.UnreadableError(
      f"{array.dtype} {list(array.shape)}, not means and deviations {wanted}"
    )
  return np.ascontiguousarray(array.transpose(1, 2, 0), np.float16)


@contextlib.contextmanager
def open_workers(work: Work, count: int) -> Iterator["Workers"]:
  """`count` processes; 1 is the caller's own."""
  if count == 1:
    yield Workers(work, None, 1)
    return
  # Not forked: jax's threads may hold locks.
  context = multiprocessing.get_context("spawn")
  pool = futures.ProcessPoolExecutor(
    count, context, initializer=_start, initargs=(work,)
  )
  try:
    yield Workers(work, pool, count)
  except process.BrokenProcessPool as error:
    raise UserError(
      "a worker process has died, for want of memory perhaps; run again, with "
      "fewer --workers"
    ) from error
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


class Workers:
  """Processes at work; see `open_workers`."""

  def __init__(
    self, work: Work, pool: futures.ProcessPoolExecutor | None, count: int
  ):
    self._work, self._pool, self._count = work, pool, count

  def map(self, items: Iterable[Item]) -> Iterator[Prepared]:
    """The items, prepared, in their order; few are in memory at any time."""
    if self._pool is None:
      source = sources.open_source(self._work.spec)
      for item in items:
        yield prepare(source, self._work, item)
      return
    waiting: collections.deque[futures.Future] = collections.deque()
    for chunk in _chunks(items):
      waiting.append(self._pool.submit(_prepare_chunk, chunk))
      if len(waiting) >= AHEAD * self._count:
        yield from waiting.popleft().result()
    while waiting:
      yield from waiting.popleft().result()


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
  chunk: list[Item] = []
  for item in items:
    chunk.append(item)
    if len(chunk) == CHUNK:
      yield chunk
      chunk = []
  if chunk:
    yield chunk


_mine: tuple[Source, Work] | None = None  # of a worker process


def _start(work: Work) -> None:
  """What a worker does first."""
  global _mine
  _mine = sources.open_source(work.spec), work
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
  parent = multiprocessing.parent_process()
  if parent is not None:
    # A killed parent cannot stop its workers, and they would wait for ever.
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
  parent.join()
  os._exit(1)


def _prepare_chunk(chunk: list[Item]) -> list[Prepared]:
  assert _mine is not None
  source, work = _mine
  return [prepare(source, work, item) for item in chunk]
