"""Files of named arrays (.npz) that are caches: damaged ones are made again."""

import io
import logging
import os
import pathlib
import tokenize
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from scm_jax import files
from scm_jax.metrics.statistic import Arrays

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
# What reading a damaged .npz file can raise, depending on the damaged byte.
DAMAGED = (
  ValueError,
  KeyError,
  OSError,
  EOFError,
  RuntimeError,
  SyntaxError,
  tokenize.TokenError,
  zipfile.BadZipFile,
)


def read_arrays(path: str | os.PathLike[str]) -> Arrays:
  """Reads all arrays of an .npz file; raises one of `DAMAGED` if it cannot."""
  with np.load(pathlib.Path(path), allow_pickle=False) as file:
    return {name: file[name] for name in file.files}


def write_arrays(
  path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]
) -> None:
  """Writes an .npz file, whole or not at all.

  Raises:
    UserError: the file cannot be written.
  """
  buffer = io.BytesIO()
  named: dict[str, Any] = dict(arrays)
  np.savez(buffer, **named)
  files.write_bytes(path, buffer.getvalue())


def read_cached(path: pathlib.Path, parse: Callable[[Arrays], T]) -> T | None:
  """Reads a cache file, if it is there and undamaged.

  Args:
    path: the file.
    parse: makes the result of the file's arrays; it may raise `DAMAGED`.

  Returns:
    What `parse` returns; None, after a warning, if the file is damaged, and
    None if there is no file.
  """
  if not path.exists():
    return None
  try:
    return parse(read_arrays(path))
  except DAMAGED as error:
    _LOG.warning("computing %s again: %s", path, reason(error))
    return None


def reason(error: BaseException) -> str:
  """Returns the first line of an error's message, or else the error's class."""
  return (str(error) or type(error).__name__).splitlines()[0]
