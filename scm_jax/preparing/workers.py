"""Reads and transforms images in many processes, in order."""

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent import futures
from concurrent.futures import process
from typing import Any

from scm_jax.errors import UserError
from scm_jax.preparing import options, transform
from scm_jax.preparing.index import Item, Source
from scm_jax.preparing.options import SourceSpec
from scm_jax.preparing.transform import Prepared, Transform

CHUNK = 8  # images that travel between processes together
AHEAD = 4  # chunks for each process that are worked on or waiting


def prepare_all(
  spec: SourceSpec, how: Transform, items: Iterable[Item], count: int
) -> Generator[Prepared, None, None]:
  """Yields the items transformed, in order; few are in memory at any time.

  Args:
    spec: the source of the items.
    how: the transform of an image.
    items: the items.
    count: the number of processes; 1 is the caller's own.

  Raises:
    UserError: a file cannot be read, or a process has died.
  """
  if count == 1:
    source = options.open_source(spec)
    for item in items:
      yield transform.prepare(source, how, item)
    return
  # Not forked: jax's threads may hold locks.
  context = multiprocessing.get_context("spawn")
  pool = futures.ProcessPoolExecutor(
    count, context, initializer=_start, initargs=(spec, how)
  )
  try:
    yield from _in_order(pool, iter(items), AHEAD * count)
  except process.BrokenProcessPool as error:
    raise UserError(
      "a worker process has died, perhaps for lack of memory; run the command "
      "again with fewer --workers"
    ) from error
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
  pool: futures.Executor, items: Iterator[Item], ahead: int
) -> Iterator[Prepared]:
  waiting: collections.deque[futures.Future] = collections.deque()
  while chunk := list(itertools.islice(items, CHUNK)):
    waiting.append(pool.submit(_prepare_chunk, chunk))
    if len(waiting) >= ahead:
      yield from waiting.popleft().result()
  while waiting:
    yield from waiting.popleft().result()


_mine: tuple[Source, Transform] | None = None  # in a worker process


def _start(spec: SourceSpec, how: Transform) -> None:
  """Opens the source in a worker process, and ties its life to the parent's."""
  global _mine
  _mine = options.open_source(spec), how
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
  source, how = _mine
  return [transform.prepare(source, how, item) for item in chunk]
