"""The statistics of an unfinished pass on disk, from which it resumes."""

import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from scm_jax.metrics import registry
from scm_jax.metrics.accumulator import Accumulator
from scm_jax.metrics.array_file import read_cached, write_arrays
from scm_jax.metrics.statistic import Arrays

_FILE, _OBSERVER = "sums.npz", "observer"


class PassCheckpoint:
  """A folder with the statistics of a pass over images that is under way.

  Attributes:
    folder: the folder.
    every: number of batches between two saves.
  """

  def __init__(self, folder: str | os.PathLike[str], every: int = 16):
    self.folder, self.every = pathlib.Path(folder), every

  def save(
    self, accumulators: Mapping[str, Accumulator], observed: Arrays
  ) -> None:
    """Saves accumulators by name, and the state of an observer.

    Raises:
      UserError: the file cannot be written; the save before is still valid.
    """
    parts = {name: a.to_arrays() for name, a in accumulators.items()}
    arrays = {
      f"{name}/{key}": array
      for name, part in (parts | {_OBSERVER: observed}).items()
      for key, array in part.items()
    }
    arrays["statistics"] = np.asarray(sorted(registry.statistics()))
    write_arrays(self.folder / _FILE, arrays)

  def restore(
    self, accumulators: Mapping[str, Accumulator], observer: Any
  ) -> bool:
    """Sets accumulators, and an observer or None, to what was saved last.

    Returns:
      Whether anything was saved. If it is damaged, the answer is no, and the
      accumulators are in no defined state.
    """

    def parse(arrays: Arrays) -> bool:
      if arrays["statistics"].tolist() != sorted(registry.statistics()):
        raise ValueError("it was saved for other metrics")
      for name, accumulator in accumulators.items():
        accumulator.restore(_without_prefix(name, arrays))
      if observer:
        observer.restore(_without_prefix(_OBSERVER, arrays))
      return True

    return bool(read_cached(self.folder / _FILE, parse))

  def remove(self) -> None:
    """Removes the folder."""
    shutil.rmtree(self.folder, ignore_errors=True)


def _without_prefix(name: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
  prefix = name + "/"
  return {
    key.removeprefix(prefix): array
    for key, array in arrays.items()
    if key.startswith(prefix)
  }
