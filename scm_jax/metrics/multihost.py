"""Processes that share a pass: whose samples are whose, and what they exchange.

Each works on its own devices alone. What one has to tell the others goes over
all devices, a process at a time and in pieces, so that neither device nor host
ever holds more than one process's words. As with any collective operation, all
processes have to call `every`, `agree` and `first` in the same order. A process
by itself exchanges nothing.
"""

import pathlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from scm_jax.errors import UserError

T = TypeVar("T")
_PIECE = 1 << 22  # 32-bit words sent at once, at most: 16 MiB


def span(total: int) -> range:
  """This process's samples: an equal part, in the order of the processes."""
  index, count = jax.process_index(), jax.process_count()
  return range(index * total // count, (index + 1) * total // count)


def portion(size: int) -> int:
  """What this process does of a batch of all of them, rounded up."""
  return -(-size // jax.process_count())


def own(path: pathlib.Path) -> pathlib.Path:
  """The path, with this process's number if there are several."""
  index, count = jax.process_index(), jax.process_count()
  return (
    path if count == 1 else path.with_name(f"{path.name}_{index}_of_{count}")
  )


def every(value: T) -> Iterator[T]:
  """The values of all processes, in their order and one at a time.

  Args:
    value: this process's; anything that can be pickled, as between the
      processes of one program.

  Yields:
    Copies, the same on every process, which has to take as many as the others.

  Raises:
    UserError: a process has gone.
  """
  if jax.process_count() == 1:
    yield value
    return
  data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
  size = np.array(divmod(len(data), 1 << 32), np.uint32)
  sizes = _exchange(multihost_utils.process_allgather, size)
  for index, (high, low) in enumerate(sizes.tolist()):
    source = index == jax.process_index()
    yield pickle.loads(_broadcast(data, (high << 32) + low, source))


def agree(make: Callable[[], T]) -> T:
  """`make()`; where it fails on one process, it does so on all.

  Raises:
    UserError: what it raised here, or on the first process where it did.
  """
  if jax.process_count() == 1:
    return make()
  value: Any = None
  failure: UserError | None = None
  try:
    value = make()
  except UserError as error:
    failure = error
  for index, theirs in enumerate(every(failure)):
    if theirs is not None:
      if index == jax.process_index():
        raise theirs
      raise type(theirs)(f"process {index} failed: {theirs}")
  return value


def first(make: Callable[[], T]) -> T:
  """`make()` of process 0, on all; the others wait for it, and do not call it.

  Raises:
    UserError: what it raised there.
  """
  if jax.process_count() == 1:
    return make()
  value: Any = agree(lambda: make() if jax.process_index() == 0 else None)
  return next(every(value))


def _broadcast(data: bytes, size: int, source: bool) -> bytes:
  """`data` of the one process that is the source; `size` is its length.

  As 32-bit words, which no backend rounds or lacks the sum of.
  """
  words = min(1 << max(-(-size // 4) - 1, 0).bit_length(), _PIECE)
  received = bytearray()
  for start in range(0, size, 4 * words):
    piece = np.zeros(words, np.uint32)
    if source:
      part = np.frombuffer(data, np.uint8)[start : start + 4 * words]
      piece.view(np.uint8)[: len(part)] = part
    sent = _exchange(multihost_utils.broadcast_one_to_all, piece, source)
    received += sent.tobytes()
  return bytes(received[:size])


def _exchange(collective: Callable[..., Any], *args: Any) -> np.ndarray:
  """What a collective operation gives; JAX's errors are of several classes."""
  try:
    return np.asarray(collective(*args))
  except (ValueError, RuntimeError) as error:
    reason = (str(error).splitlines() or [""])[0][:200]
    raise UserError(f"the exchange with others broke off: {reason}") from error
