"""Exchange of objects among processes, and their shares of a set of samples.

Messages go over all devices, one process at a time and in pieces, so that no
device or host ever holds more than one. All processes must call these functions
in the same order. A process that is alone exchanges nothing.
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


def process_samples(total: int) -> range:
  """Returns this process's equal part of `total` samples, in process order."""
  index, count = jax.process_index(), jax.process_count()
  return range(index * total // count, (index + 1) * total // count)


def process_path(path: pathlib.Path) -> pathlib.Path:
  """Returns the path, with this process's index if there are several."""
  index, count = jax.process_index(), jax.process_count()
  suffix = f"_{index}_of_{count}" if count > 1 else ""
  return path.with_name(path.name + suffix)


def all_gather_objects(value: T) -> Iterator[T]:
  """Yields the values, which are pickled, of all processes in their order.

  Every process must take as many of them as the others do.

  Raises:
    UserError: a process is gone.
  """
  if jax.process_count() == 1:
    yield value
    return
  data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
  size = np.array(divmod(len(data), 1 << 32), np.uint32)
  sizes = _collective(multihost_utils.process_allgather, size)
  for index, (high, low) in enumerate(sizes.tolist()):
    is_source = index == jax.process_index()
    yield pickle.loads(_broadcast(data, (high << 32) + low, is_source))


def raise_on_any(make: Callable[[], T]) -> T:
  """Returns `make()`; a UserError on one process is raised on all."""
  value: Any = None
  failure: UserError | None = None
  try:
    value = make()
  except UserError as error:
    failure = error
  for index, theirs in enumerate(all_gather_objects(failure)):
    if theirs and index == jax.process_index():
      raise theirs
    if theirs:
      raise type(theirs)(f"process {index} failed: {theirs}")
  return value


def from_process_zero(make: Callable[[], T]) -> T:
  """Returns, or raises, on all processes what `make()` does on process 0."""
  value: Any = raise_on_any(lambda: None if jax.process_index() else make())
  return next(all_gather_objects(value))


def _broadcast(data: bytes, size: int, is_source: bool) -> bytes:
  """Returns `data` of the one process that is the source, `size` bytes long.

  It is sent as 32-bit words, which every backend can sum without rounding.
  """
  words = min(1 << max(-(-size // 4) - 1, 0).bit_length(), _PIECE)
  received = bytearray()
  for start in range(0, size, 4 * words):
    piece = np.zeros(words, np.uint32)
    if is_source:
      part = np.frombuffer(data, np.uint8)[start : start + 4 * words]
      piece.view(np.uint8)[: len(part)] = part
    sent = _collective(multihost_utils.broadcast_one_to_all, piece, is_source)
    received += sent.tobytes()
  return bytes(received[:size])


def _collective(operation: Callable[..., Any], *args: Any) -> np.ndarray:
  """Runs a collective operation, whose errors JAX raises in several classes."""
  try:
    return np.asarray(operation(*args))
  except (ValueError, RuntimeError) as error:
    reason = (str(error).splitlines() or [""])[0][:200]
    raise UserError(
      f"the exchange with the other processes broke off: {reason}"
    ) from error
