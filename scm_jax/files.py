"""Writes files and folders whole or not at all.

A file is written beside its final place and renamed onto it; a folder likewise.
A reader, or the next start of a program that was killed, never finds half of
either. Paths may lie on a local disk or in a bucket (`gs://...`).

While a folder `NAME` is replaced, its neighbours are `.NAME.partial`, which is
being written, and on a disk `.NAME.previous`, the old content, and
`.NAME.lock`, by which one process alone does so. On a disk the swap is one
step where the system has it, else two renames, and `recover_folder` rolls back
what a kill interrupted. A bucket
cannot rename a folder: an object `.NAME.complete` first records that
`.NAME.partial` is whole, its objects are then copied to `NAME`, and
`recover_folder` completes what a kill interrupted.
"""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import shutil
import uuid
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from scm_jax.errors import UserError, one_line

if TYPE_CHECKING:
  from etils import epath

COMMITTED = "commit_success.txt"  # Orbax's mark of a checkpoint in a bucket


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str], what: str) -> Generator[int | None]:
  """Keeps other processes out of a folder of a disk, which is made.

  Yields the descriptor of its file `.lock`. Processes that inherit it hold the
  lock too, even if this one is killed. A bucket has no locks, and neither have
  some network disks, nor what may only be read: None.

  Args:
    folder: the folder.
    what: what another process would be, such as "another training".

  Raises:
    UserError: another process has the lock.
  """
  path = _to_path(folder)
  if is_remote(path):
    yield None
    return
  lock = pathlib.Path(path) / ".lock"
  with _locked_file(lock, f"{what} works in {path}") as descriptor:
    yield descriptor


@contextlib.contextmanager
def _locked_file(path: pathlib.Path, held: str) -> Generator[int | None]:
  """Holds the lock of a file, which is made, with its folder.

  Yields its descriptor; None where it may not be written, or has no locks.

  Raises:
    UserError: another process has the lock; the message begins with `held`.
  """
  with contextlib.ExitStack() as stack:
    descriptor = None
    with contextlib.suppress(OSError):
      path.parent.mkdir(parents=True, exist_ok=True)
      file = stack.enter_context(open(path, "w"))
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path).st_ino != os.fstat(file.fileno()).st_ino:
          raise BlockingIOError  # its last owner has just removed it
      except (BlockingIOError, FileNotFoundError):
        raise UserError(f"{held}; wait for it, or end it") from None
      descriptor = file.fileno()
    yield descriptor


@contextlib.contextmanager
def writing(path: Any, remedy: str = "") -> Generator[None]:
  """Turns errors of the file system into a `UserError` that names the path.

  The message ends with the remedy, if there is one.
  """
  try:
    yield
  except OSError as error:
    words = error.strerror or one_line(error), remedy
    reason = "; ".join(filter(None, words))
    raise UserError(f"cannot write {path}: {reason}") from error


def write_bytes(path: str | os.PathLike[str], data: bytes) -> os.PathLike[str]:
  """Writes a whole file, and makes its folder if there is none.

  Args:
    path: where the file appears; an existing file is replaced.
    data: the whole content.

  Returns:
    The path written.

  Raises:
    UserError: the file cannot be written (full disk, no permission, ...).
  """
  target = _to_path(path)
  if is_remote(target):  # an object appears whole or not at all by itself
    with writing(target):
      target.write_bytes(data)
    return target
  with replaced_file(target) as temporary:
    temporary.write_bytes(data)
  return target


def write_text(path: str | os.PathLike[str], text: str) -> os.PathLike[str]:
  """Writes a whole text file in UTF-8; see `write_bytes`."""
  return write_bytes(path, text.encode())


@contextlib.contextmanager
def replaced_file(
  path: str | os.PathLike[str], scratch: str | os.PathLike[str] | None = None
) -> Generator[pathlib.Path]:
  """Gives a path to write to, and moves that file to `path` once it is whole.

  Args:
    path: where the file appears, on a local disk.
    scratch: folder of the unfinished file, on the same disk; by default the
      file's own.

  Yields:
    The path of the unfinished file, of which nothing is left on failure.

  Raises:
    UserError: the file cannot be written; the old one is still there.
  """
  target = pathlib.Path(path)
  folder = pathlib.Path(scratch or target.parent)
  # Unique, should two processes write the same file.
  temporary = folder / f".{target.name}.{uuid.uuid4().hex}.tmp"
  with writing(target):
    folder.mkdir(parents=True, exist_ok=True)
    try:
      yield temporary
      with open(temporary, "rb") as stream:
        os.fsync(stream.fileno())
      os.replace(temporary, target)
    finally:
      temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced_folder(path: str | os.PathLike[str]) -> Generator[Any]:
  """Gives a folder to write to, and puts it in the place of `path` once whole.

  Args:
    path: where the folder appears; what is there is replaced.

  Yields:
    The path of the unfinished folder: `pathlib` on a disk, `epath` in a bucket.
    Nothing is left of it on failure.

  Raises:
    UserError: the folder cannot be written, or another process writes it. On a
      disk the old one is still there; in a bucket the next `recover_folder` may
      complete the new one.
  """
  target = _to_path(absolute(path))
  with _alone(target), writing(target):
    recover_folder(target)
    if target.exists() and not target.is_dir():
      raise NotADirectoryError("it is a file")
    partial = _neighbour(target, "partial")
    try:
      partial.mkdir(parents=True)
      yield partial
      if is_remote(target):
        _neighbour(target, "complete").write_bytes(b"")
        _copy_into_place(target)
      else:
        _swap_into_place(target)
    except BaseException:
      with contextlib.suppress(UserError):
        recover_folder(target)
      raise


@contextlib.contextmanager
def _alone(target: Any) -> Generator[None]:
  """Keeps out other processes that would replace the same folder of a disk."""
  if is_remote(target):
    yield
    return
  lock = _neighbour(target, "lock")
  with _locked_file(lock, f"another command writes {target}"):
    try:
      yield
    finally:
      with contextlib.suppress(OSError):
        lock.unlink(missing_ok=True)


def recover_folder(path: str | os.PathLike[str]) -> None:
  """Ends a replacement of the folder `path` that a kill interrupted.

  Afterwards the old or the new folder is there, whole, if there ever was one.

  Raises:
    UserError: the folder's parent cannot be written.
  """
  target = _to_path(absolute(path))
  previous = _neighbour(target, "previous")
  with writing(target):
    if is_remote(target):
      if _neighbour(target, "complete").exists():
        _copy_into_place(target)
    elif not target.exists() and previous.exists():
      previous.rename(target)
    _remove(_neighbour(target, "partial"))
    _remove(previous)


def absolute(path: str | os.PathLike[str]) -> str:
  """Returns the absolute path with links followed, or a bucket's path as is."""
  text = os.fspath(path)
  return text if is_remote(text) else os.path.realpath(text)


def saved_steps(folder: "epath.Path") -> list[int]:
  """Returns the steps of the complete checkpoints in a folder, in any order.

  Those that are being written have longer names; in a bucket, where Orbax
  writes in place, they lack its mark.
  """
  if not folder.exists():
    return []
  found = [path for path in folder.iterdir() if path.name.isdigit()]
  if is_remote(folder):
    found = [path for path in found if (path / COMMITTED).exists()]
  return [int(path.name) for path in found]


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Returns whether the path lies in a bucket."""
  return "://" in os.fspath(path)


def _swap_into_place(path: pathlib.Path) -> None:
  """Puts the partial folder at `path`, where readers always find a folder.

  Where the system cannot exchange two folders at once, the old one is set aside
  first, and for a moment there is none.
  """
  previous, partial = _neighbour(path, "previous"), _neighbour(path, "partial")
  if path.exists():
    if _exchanged(partial, path):
      _remove(partial)
      return
    path.rename(previous)
  partial.rename(path)
  _remove(previous)


def _exchanged(a: pathlib.Path, b: pathlib.Path) -> bool:
  """Exchanges two folders in one step, and returns whether the system could."""
  try:
    exchange = ctypes.CDLL(None).renameat2  # of Linux
  except (AttributeError, OSError):
    return False
  here = -100  # paths are relative to the current folder
  return exchange(here, os.fsencode(a), here, os.fsencode(b), 2) == 0


def _copy_into_place(path: Any) -> None:
  """Copies a complete partial folder of a bucket; can be repeated."""
  _remove(path)
  _copy(_neighbour(path, "partial"), path)
  _neighbour(path, "complete").unlink()
  _remove(_neighbour(path, "partial"))


def _copy(source: Any, target: Any) -> None:
  """Copies all files below a folder, replacing those that are there."""
  target.mkdir(parents=True, exist_ok=True)
  for path in source.iterdir():
    if path.is_dir():
      _copy(path, target / path.name)
    else:
      path.copy(target / path.name, overwrite=True)


def _remove(folder: Any) -> None:
  if not folder.exists():
    return
  if is_remote(folder):
    folder.rmtree()
  else:
    shutil.rmtree(folder)


def _neighbour(path: Any, suffix: str) -> Any:
  return path.with_name(f".{path.name}.{suffix}")


def _to_path(path: str | os.PathLike[str]) -> Any:
  if not is_remote(path):
    return pathlib.Path(path)
  from etils import epath  # an extra; local files do without it

  return epath.Path(path)
