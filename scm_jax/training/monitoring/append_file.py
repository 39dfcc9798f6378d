"""A file that grows, on a disk or in a bucket."""

import time

from etils import epath

from scm_jax import files
from scm_jax.errors import UserError

INTERVAL = 60.0  # seconds between uploads of an object that grows


class GrowingFile:
  """What is added to it is on the disk at once, in a bucket within a minute.

  Nothing can be added to an object in a bucket: it is kept in memory and
  uploaded whole, once a minute if it has grown, and when flushed.
  """

  def __init__(self, path: epath.Path, content: bytes = b""):
    """Makes the file, or replaces it, whole.

    Raises:
      UserError: it cannot be written; so do all other methods.
    """
    files.write_bytes(path, content)
    self._path, self.size = path, len(content)
    self._object = bytearray(content) if "://" in str(path) else None
    self._uploaded, self._clock = len(content), time.monotonic()
    # Unbuffered: what a full disk has refused is not tried again later.
    self._file = None
    if self._object is None:
      self._file = open(path, "ab", buffering=0)

  def write(self, data: bytes) -> None:
    """Adds `data`."""
    self.size += len(data)
    if self._object is not None:
      self._object += data
      if time.monotonic() - self._clock >= INTERVAL:
        self.flush()
    elif self._file is not None:
      try:
        while data:
          data = data[self._file.write(data) :]
      except OSError as error:
        raise self._full(error) from error

  def flush(self) -> None:
    """Makes all that was added readable by others."""
    if self._object is None or self._uploaded == self.size:
      return
    try:
      self._path.write_bytes(bytes(self._object))
    except OSError as error:
      raise self._full(error) from error
    self._uploaded, self._clock = self.size, time.monotonic()

  def close(self) -> None:
    self.flush()
    if self._file is not None:
      self._file.close()

  def _full(self, error: OSError) -> UserError:
    return UserError(
      f"cannot write {self._path}: {error.strerror or error}; make room and "
      "run the same command again"
    )
