"""A pass's sums on disk, from which a killed one goes on."""

import io
import os
import pathlib
import shutil
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from scm_jax import files
from scm_jax.metrics.accumulator import Accumulator, Arrays

# What reading a damaged .npz file can raise, depending on the byte.
DAMAGED = (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile)
_SUMS, _SEEN = "sums.npz", "seen"


class Partial:
  """The sums of a pass that is under way.

  Kept features are appended, a file each time, and the sums replaced after
  that, so that what the sums speak of is always there.

  Attributes:
    folder: where all of it is.
    every: after how many batches it is saved.
  """

  def __init__(self, folder: str | os.PathLike[str], every: int = 16):
    self.folder, self.every = pathlib.Path(folder), every

  def exists(self) -> bool:
    """Whether there is anything to go on from."""
    return (self.folder / _SUMS).exists()

  def save(self, accumulators: Mapping[str, Accumulator], seen: Arrays) -> None:
    """Saves the sums, and what a witness wants to see again.

    Raises:
      UserError: a file cannot be written; what was there is still valid.
    """
    state, kept = {f"{_SEEN}/{k}": v for k, v in seen.items()}, {}
    for name, accumulator in accumulators.items():
      kept[name] = accumulator.take_new()
      state |= {f"{name}/{k}": v for k, v in accumulator.state().items()}
    count = next(iter(accumulators.values())).count
    write_arrays(self.folder / f"kept_{count:012d}.npz", kept)
    write_arrays(self.folder / _SUMS, state)

  def restore(
    self, accumulators: Mapping[str, Accumulator]
  ) -> tuple[int, Arrays]:
    """Sets accumulators to what was saved last.

    Returns:
      The number of samples, and what the witness had saved.

    Raises:
      ValueError, KeyError, OSError: see `DAMAGED`.
    """
    state = read_arrays(self.folder / _SUMS)
    count = int(state[f"{next(iter(accumulators))}/n"])
    parts = []
    for path in sorted(self.folder.glob("kept_*.npz")):
      if int(path.stem.removeprefix("kept_")) <= count:
        parts.append(read_arrays(path))
      else:  # the sums that it belongs to were not saved any more
        path.unlink()
    for name, accumulator in accumulators.items():
      kept = np.concatenate([part[name] for part in parts])
      accumulator.restore(_under(state, name), kept)
    return count, _under(state, _SEEN)

  def remove(self) -> None:
    """Removes all of it."""
    shutil.rmtree(self.folder, ignore_errors=True)


def read_arrays(path: str | os.PathLike[str]) -> Arrays:
  """All arrays of an .npz file of ours; see `DAMAGED` for what it raises."""
  with np.load(pathlib.Path(path), allow_pickle=False) as file:
    return {name: file[name] for name in file.files}


def write_arrays(
  path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]
) -> None:
  """Writes an .npz file, whole or not at all.

  Raises:
    UserError: it cannot be written.
  """
  buffer = io.BytesIO()
  named: dict[str, Any] = dict(arrays)
  np.savez(buffer, **named)
  files.write_bytes(path, buffer.getvalue())


def _under(state: Mapping[str, np.ndarray], name: str) -> Arrays:
  prefix = name + "/"
  return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
