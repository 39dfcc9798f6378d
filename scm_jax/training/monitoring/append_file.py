"""A file to which data are appended, on a disk or in a bucket."""

import time

from etils import epath

from scm_jax import files
from scm_jax.errors import UserError

INTERVAL = 60.0  # seconds between two uploads of an object


class AppendFile:
  """A file whose new data are on the disk at once, in a bucket in a minute.

  Nothing can be appended to an object in a bucket. So it is kept in memory and
  uploaded whole: once a minute if it has grown, and when it is flushed.
  """

  def __init__(self, path: epath.Path, content: bytes = b""):
    """Creates the file, or replaces it as a whole.

    Args:
      path: where the file is to be.
      content: the data with which it begins.

    Raises:
      UserError: the file cannot be written. All other methods raise it, too.
    """
    files.write_bytes(path, content)
    self._path, self.size = path, len(content)
    self._object = bytearray(content) if "://" in str(path) else None
    self._uploaded, self._clock = len(content), time.monotonic()
    # Unbuffered, so that data which a full disk refused are not tried again.
    self._file = None
    if self._object is None:
      self._file = open(path, "ab", buffering=0)

  def write(self, data: bytes) -> None:
    """Appends `data`."""
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
        raise self._error(error) from error

  def flush(self) -> None:
    """Makes everything that was written readable by others."""
    if self._object is None or self._uploaded == self.size:
      return
    try:
      self._path.write_bytes(bytes(self._object))
    except OSError as error:
      raise self._error(error) from error
    self._uploaded, self._clock = self.size, time.monotonic()

  def close(self) -> None:
    """Flushes and closes the file."""
    self.flush()
    if self._file is not None:
      self._file.close()

  def _error(self, error: OSError) -> UserError:
    return UserError(
      f"cannot write {self._path}: {error.strerror or error}; make room and "
      "run the same command again"
    )
