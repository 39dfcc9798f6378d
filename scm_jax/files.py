"""Files that appear whole or not at all.

A report, a picture or a cache is written beside its final place and renamed
onto it, so that a reader, or a run that was killed, never finds half a file.
"""

import os
import pathlib
import tempfile

from scm_jax.errors import UserError


def write_bytes(path: str | os.PathLike[str], data: bytes) -> os.PathLike[str]:
  """Writes `data` to `path` atomically, making its directory if needed.

  Args:
    path: where the file is to appear; an existing file is replaced.
    data: the whole content.

  Returns:
    The path written.

  Raises:
    UserError: the file cannot be written (full disk, no permission, ...).
  """
  if "://" in os.fspath(path):
    return _write_remote(path, data)
  path = pathlib.Path(path)
  temporary = None
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(
      dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
    )
    with os.fdopen(handle, "wb") as stream:
      stream.write(data)
      stream.flush()
      os.fsync(stream.fileno())
    # mkstemp makes files private; a report is meant to be read by others.
    os.chmod(temporary, 0o666 & ~_umask())
    os.replace(temporary, path)
    temporary = None
  except OSError as error:
    reason = error.strerror or str(error)
    raise UserError(f"cannot write {path}: {reason}") from error
  finally:
    if temporary is not None and os.path.exists(temporary):
      os.unlink(temporary)
  return path


def write_text(path: str | os.PathLike[str], text: str) -> os.PathLike[str]:
  """`write_bytes` of a text, as UTF-8."""
  return write_bytes(path, text.encode())


def absolute(path: str | os.PathLike[str]) -> str:
  """The path from the root, links followed; that of a bucket as it is."""
  text = os.fspath(path)
  return text if "://" in text else os.path.realpath(text)


def _write_remote(path: str | os.PathLike[str], data: bytes):
  """Writes to a bucket, where an object appears whole or not at all anyway."""
  from etils import epath  # an extra; local files do without it

  path = epath.Path(path)
  path.write_bytes(data)
  return path


def _umask() -> int:
  """The process's file-creation mask (readable only by setting it)."""
  mask = os.umask(0o022)
  os.umask(mask)
  return mask
