"""Images from anywhere, read a batch at a time: folders, zips and arrays."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from scm_jax import errors
from scm_jax.errors import UserError
from scm_jax.evaluation.request import file_digest
from scm_jax.metrics import multihost
from scm_jax.preparing import file_source, transform
from scm_jax.preparing.file_source import FileSource
from scm_jax.preparing.index import UnreadableError

_THREADS = 8  # threads that read and decode files
_ARRAYS = ("arr_0", "samples")  # names under which an .npz may hold images
_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Pictures:
  """Images of one shape, (H, W, C), in a folder or file.

  `batches(indices, size)` yields uint8 images [n, H, W, C] of increasing
  indices, `size` at a time. The digest is that of all that is read.
  """

  path: str
  count: int
  shape: tuple[int, int, int]
  digest: str
  batches: Callable[[Sequence[int], int], Iterator[np.ndarray]]


def open_pictures(path: str) -> Pictures:
  """Opens images, on all processes together.

  They are the image files in a folder and the folders below it, or in a .zip,
  in the order of their names; or an array, uint8 [N, H, W, C], in an .npy, or
  in an .npz under `arr_0` or `samples`. Files are decoded as for published
  distances: without transparency, and not turned as a camera was held. They
  become grey if all of them are, and RGB otherwise.

  Raises:
    UserError: there are no such images, they differ in size, or one cannot be
      read; the message names the file.
  """
  if path.endswith((".npz", ".npy")):
    return _open_array(path)
  if os.path.isdir(path):
    return _open_files(path, file_source.FolderSource(path))
  if os.path.isfile(path) and path.endswith(".zip"):
    return _open_files(path, file_source.ZipSource(path))
  raise UserError(
    f"--images={path} is no folder, and no file in .npz, .npy or .zip"
  )


def _open_files(path: str, source: FileSource) -> Pictures:
  def use(make: Callable[[bytes], T], name: str) -> T:
    where = os.path.join(path, name)
    try:
      data, _ = source.read(name)
      return make(data)
    except UnreadableError as error:
      raise UserError(f"{where}: {error}; repair or remove it") from error
    except OSError as error:
      reason = error.strerror or errors.one_line(error)
      raise UserError(f"cannot read {where}: {reason}") from error

  scan = lambda: _scan(path, sorted(source.names()), use)
  names, shape, digest = multihost.from_process_zero(scan)

  def decode(data: bytes) -> np.ndarray:
    image, _ = transform.decode(data, shape[2], "adm")
    return transform.to_array(image)

  def batches(indices: Sequence[int], size: int) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(_THREADS) as pool:
      for first in range(0, len(indices), size):
        part = [names[index] for index in indices[first : first + size]]
        yield np.stack(list(pool.map(functools.partial(use, decode), part)))

  return Pictures(path, len(names), shape, digest, batches)


def _scan(
  path: str, found: Sequence[str], use: Callable[..., Any]
) -> tuple[list[str], tuple[int, int, int], str]:
  """Returns the names of the images among files, their shape and a digest."""
  names = [name for name in found if file_source.is_data(name)]
  if not names:
    raise UserError(
      f"there are no images in {path}; an image is known by the end of its "
      f"name, which is one of {' '.join(sorted(file_source.IMAGES))}"
    )

  def head(data: bytes) -> tuple[tuple[int, int], bool, bytes]:
    image = transform.open_image(data, whole=False)
    grey = Image.getmodebase(image.mode) == "L"
    return image.size, grey, hashlib.sha256(data).digest()

  with ThreadPoolExecutor(_THREADS) as pool:
    heads = list(pool.map(functools.partial(use, head), names))
  (width, height), *_ = heads[0]
  for name, (size, *_) in zip(names, heads, strict=True):
    if size != (width, height):
      raise UserError(
        f"{os.path.join(path, name)} has {size[0]}x{size[1]} pixels, and "
        f"{names[0]} {width}x{height}; give images of one size"
      )
  channels = 1 if all(grey for _, grey, _ in heads) else 3
  marks = [mark for *_, mark in heads]
  digest = hashlib.sha256(b"".join(marks)).hexdigest()
  return names, (height, width, channels), digest


def _open_array(path: str) -> Pictures:
  """Opens an array, of which single images can be read."""
  with errors.reading(path), _stream(path) as stream:
    version = np.lib.format.read_magic(stream)
    shape, fortran, dtype = _HEADERS[version](stream)
    start = stream.tell()
    if dtype != np.uint8 or len(shape) != 4 or not all(shape):
      found = f"{dtype} {list(shape)}"
      raise ValueError(f"its images are {found}, not uint8 [N, H, W, C]")
    if shape[3] not in (1, 3) or fortran:
      raise ValueError(
        f"its images are {list(shape)}, and must be [N, H, W, 1] or "
        "[N, H, W, 3] in C order"
      )
  count, *one = shape
  length = int(np.prod(one))

  def read(stream: Any, index: int | np.integer) -> np.ndarray:
    stream.seek(start + int(index) * length)
    return np.frombuffer(stream.read(length), np.uint8).reshape(one)

  def batches(indices: Sequence[int], size: int) -> Iterator[np.ndarray]:
    with _stream(path) as stream:
      for first in range(0, len(indices), size):
        part = indices[first : first + size]
        with errors.reading(path):
          images = np.stack([read(stream, index) for index in part])
        yield images

  height, width, channels = one
  digest = multihost.from_process_zero(lambda: file_digest(path))
  return Pictures(path, count, (height, width, channels), digest, batches)


@contextlib.contextmanager
def _stream(path: str) -> Generator[Any]:
  """Opens an .npy, or the one of images in an .npz, which may be compressed."""
  if path.endswith(".npy"):
    with open(path, "rb") as stream:
      yield stream
    return
  with zipfile.ZipFile(path) as archive:
    held = [name.removesuffix(".npy") for name in archive.namelist()]
    name = next((name for name in _ARRAYS if name in held), None)
    if name is None:
      raise ValueError(
        f"it has neither {' nor '.join(_ARRAYS)}, but {', '.join(held)}"
      )
    with archive.open(f"{name}.npy") as stream:
      yield stream
