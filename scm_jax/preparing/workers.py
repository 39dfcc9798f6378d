"""Reads and transforms images in many processes, in order."""

import collections
import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent import futures
from concurrent.futures import process
from typing import Any

from scm_jax.errors import UserError
from scm_jax.preparing import options, transform
from scm_jax.preparing.index import Item
from scm_jax.preparing.transform import Prepared, Transform

CHUNK = 8  # images that travel between processes together
AHEAD = 4  # chunks for each process that are worked on or waiting


def prepare_all(
  source: Sequence[str], how: Transform, items: Iterable[Item], count: int
) -> Generator[Prepared, None, None]:
  """Yields the items of a source transformed, in order.

  Few are in memory at any time. The source is given by the arguments of
  `open_source`. A `count` of 1 is the process of the caller.

  Raises:
    UserError: a file cannot be read, or a process has died.
  """
  if count == 1:
    opened = options.open_source(*source)
    for item in items:
      yield transform.prepare(opened, how, item)
    return
  # Not forked: jax's threads may hold locks.
  context = multiprocessing.get_context("spawn")
  pool = futures.ProcessPoolExecutor(count, context, _start)
  waiting: collections.deque[futures.Future] = collections.deque()
  items = iter(items)
  try:
    while chunk := list(itertools.islice(items, CHUNK)):
      waiting.append(pool.submit(_prepare_chunk, source, how, chunk))
      if len(waiting) >= AHEAD * count:
        yield from waiting.popleft().result()
    while waiting:
      yield from waiting.popleft().result()
  except process.BrokenProcessPool as error:
    raise UserError(
      "a worker process has died, perhaps for lack of memory; run the command "
      "again with fewer --workers"
    ) from error
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
  """Ties the life of a worker process to that of its parent."""

  def end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)

  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
  # A killed parent cannot stop its workers, and they would wait for ever.
  threading.Thread(target=end_with_parent, daemon=True).start()


_open_once = functools.cache(options.open_source)


def _prepare_chunk(
  source: Sequence[str], how: Transform, chunk: list[Item]
) -> list[Prepared]:
  opened = _open_once(*source)
  return [transform.prepare(opened, how, item) for item in chunk]
