"""Files of named arrays (.npz) that are caches: damaged ones are made again."""

import io
import logging
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from scm_jax import errors, files
from scm_jax.errors import UserError
from scm_jax.metrics.statistic import Arrays

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


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
    parse: makes the result of the file's arrays; it raises an error if they
      are not as expected.

  Returns:
    The result of `parse`; None if there is no file, or, after a warning, if it
    is damaged.
  """
  if not path.exists():
    return None
  try:
    with errors.reading(path), np.load(path, allow_pickle=False) as file:
      return parse({name: file[name] for name in file.files})
  except UserError as error:
    _LOG.warning("its content is computed again: %s", error)
    return None
