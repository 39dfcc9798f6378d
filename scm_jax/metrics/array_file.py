"""Files of arrays that are made again if damaged: caches, unfinished passes."""

import logging
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from flax import traverse_util

from scm_jax import errors, files
from scm_jax.errors import UserError
from scm_jax.metrics import multihost, registry
from scm_jax.metrics.accumulator import Accumulator
from scm_jax.metrics.metric import Arrays

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


def write_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
  """Writes an .npz file whole, or raises UserError."""
  with files.replaced_file(path) as temporary, temporary.open("wb") as stream:
    np.savez(stream, **arrays)


def read_cached(path: pathlib.Path, parse: Callable[[Arrays], T]) -> T | None:
  """Returns what `parse` makes of a cache file's arrays.

  Returns None if there is no file, or, after a warning, if it is damaged or
  `parse` raises an error.
  """
  if not path.exists():
    return None
  try:
    with errors.reading(path), np.load(path, allow_pickle=False) as file:
      return parse({name: file[name] for name in file.files})
  except UserError as error:
    _LOG.warning("its content is computed again: %s", error)
    return None


class PassCheckpoint:
  """A folder with the statistics of a pass over images that is under way.

  Each process has its own, and saves its statistics once in `every` batches.
  """

  def __init__(self, folder: pathlib.Path, every: int = 16):
    self.folder, self.every = multihost.process_path(folder), every
    self._file = self.folder / "sums.npz"

  def save(self, accumulator: Accumulator, observed: Arrays) -> None:
    """Saves an accumulator, and the state of an observer."""
    state = accumulator.to_arrays() | {"observer": observed}
    arrays = traverse_util.flatten_dict(state, sep="/")
    arrays["statistics"] = np.asarray(sorted(registry.statistics()))
    write_arrays(self._file, arrays)

  def restore(self, accumulator: Accumulator, observer: Any) -> bool:
    """Sets an accumulator, and an observer or None, to what was saved last.

    Returns False if nothing was, or if it is damaged; the accumulator is then
    in no defined state.
    """

    def parse(arrays: Arrays) -> bool:
      if arrays.pop("statistics").tolist() != sorted(registry.statistics()):
        raise ValueError("it was saved for other metrics")
      state = traverse_util.unflatten_dict(arrays, sep="/")
      observed = state.pop("observer", {})
      accumulator.restore(state)
      if observer:
        observer.join([observed])
      return True

    return bool(read_cached(self._file, parse))

  def remove(self) -> None:
    """Removes the folder."""
    shutil.rmtree(self.folder, ignore_errors=True)
