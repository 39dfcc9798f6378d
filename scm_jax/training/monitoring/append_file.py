"""A file to which data are appended, on a disk or in a bucket."""

import contextlib
import time
from collections.abc import Iterator

from etils import epath

from scm_jax import files
from scm_jax.errors import UserError

INTERVAL = 60.0  # seconds between two uploads of an object


class AppendFile:
  """A file whose new data are on the disk at once, in a bucket in a minute.

  Nothing can be appended to an object in a bucket. So it is kept in memory and
  uploaded whole: once a minute if it has grown, and when it is flushed. All
  methods raise UserError if the file cannot be written.
  """

  def __init__(self, path: epath.Path, content: bytes = b""):
    """Creates the file, or replaces it as a whole, with some content."""
    files.write_bytes(path, content)
    self._path, self.size = path, len(content)
    self._uploaded, self._clock = len(content), time.monotonic()
    self._object, self._file = bytearray(content), None
    if not files.is_remote(path):
      # Unbuffered, so that data which a full disk refused are not tried again.
      self._file = open(path, "ab", buffering=0)

  def write(self, data: bytes) -> None:
    """Appends `data`."""
    self.size += len(data)
    if self._file is None:
      self._object += data
      if time.monotonic() - self._clock >= INTERVAL:
        self.flush()
      return
    with self._reporting():
      while data:
        data = data[self._file.write(data) :]

  def flush(self) -> None:
    """Makes everything that was written readable by others."""
    if self._file is None and self._uploaded < self.size:
      with self._reporting():
        self._path.write_bytes(bytes(self._object))
      self._uploaded, self._clock = self.size, time.monotonic()

  def close(self) -> None:
    """Flushes and closes the file."""
    self.flush()
    if self._file is not None:
      self._file.close()

  @contextlib.contextmanager
  def _reporting(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      raise UserError(
        f"cannot write {self._path}: {error.strerror or error}; make room and "
        "run the same command again"
      ) from error
