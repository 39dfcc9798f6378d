"""PyTorch's tensors and its saved archives, by numpy alone.

An archive (what `torch.save` writes) is a zip file of a pickle `data.pkl` and
raw storages `data/KEY`, or the older sequence of pickles followed by storages.
A network pickled whole has one small archive of the older kind for each tensor.
"""

import io
import math
import zipfile
from typing import Any, BinaryIO

import numpy as np

from scm_jax.interop import unpickling
from scm_jax.interop.unpickling import Refused

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
# PyTorch's storage classes of the types that weights have, little-endian.
STORAGES = {
  "FloatStorage": "<f4",
  "HalfStorage": "<f2",
  "DoubleStorage": "<f8",
  "LongStorage": "<i8",  # counts of batches
}


def rebuild(
  storage: Any,
  offset: Any,
  shape: Any,
  strides: Any,
  requires_grad: Any = False,
  hooks: Any = None,
  metadata: Any = None,
) -> np.ndarray:
  """`torch._utils._rebuild_tensor_v2`: a view of a storage.

  Raises:
    Refused: the view reaches beyond the storage.
  """
  del requires_grad, hooks, metadata
  shape, strides = tuple(shape), tuple(strides)
  numbers = (offset, *shape, *strides)
  if not isinstance(storage, np.ndarray) or len(shape) != len(strides):
    raise Refused("a tensor is not a view of a storage")
  if any(type(n) is not int or n < 0 for n in numbers):
    raise Refused("a tensor's shape is not made of whole numbers")
  last = offset + sum(
    (n - 1) * step for n, step in zip(shape, strides, strict=True)
  )
  size = math.prod(shape)
  if size > storage.size or (size and last >= storage.size):
    raise Refused("a tensor reaches beyond its storage")
  if not size:
    return np.zeros(shape, storage.dtype)
  item = storage.dtype.itemsize
  return np.lib.stride_tricks.as_strided(
    storage[offset:], shape, [step * item for step in strides], writeable=False
  )


def parameter(data: Any, requires_grad: Any = None, hooks: Any = None) -> Any:
  """`torch._utils._rebuild_parameter`: its tensor."""
  del requires_grad, hooks
  return data


def storage_from_bytes(data: Any) -> np.ndarray:
  """`torch.storage._load_from_bytes`: the one storage of an archive.

  Raises:
    Refused: the archive is damaged, or holds anything but a storage.
  """
  if not isinstance(data, bytes):
    raise Refused("a storage is not made of bytes")
  storage = load_archive(io.BytesIO(data), _STORAGE_TYPES)
  if not isinstance(storage, np.ndarray):
    raise Refused("an archive inside it is not a storage")
  return storage


_STORAGE_TYPES: unpickling.Table = {
  ("torch", name): unpickling.record_type(name) for name in STORAGES
}
TENSORS: unpickling.Table = {
  **_STORAGE_TYPES,
  ("torch._utils", "_rebuild_tensor_v2"): unpickling.call(rebuild),
  ("torch._utils", "_rebuild_parameter"): unpickling.call(parameter),
  ("torch.storage", "_load_from_bytes"): unpickling.call(storage_from_bytes),
  ("torch", "Size"): unpickling.call(tuple),
}


def load_archive(file: BinaryIO, table: unpickling.Table) -> Any:
  """What `torch.save` put into a file, as `table` and numpy have it.

  Raises:
    Refused: it is damaged, or names what `table` lacks.
  """
  start = file.tell()
  head = file.read(4)
  file.seek(start)
  return (_zipped if head == b"PK\3\4" else _legacy)(file, table)


def is_archive(file: BinaryIO) -> bool:
  """Whether a file was written by `torch.save`, by its first bytes."""
  start = file.tell()
  head = file.read(32)
  file.seek(start)
  # The pickle of the magic number: a long of ten bytes.
  magic = LEGACY_MAGIC.to_bytes(10, "little")
  return head.startswith(b"PK\3\4") or magic in head


def _zipped(file, table):
  try:
    with zipfile.ZipFile(file) as archive:
      if any(info.compress_type for info in archive.infolist()):
        raise Refused("an archive in it is compressed")  # PyTorch's never are
      names = [n for n in archive.namelist() if n.endswith("/data.pkl")]
      if len(names) != 1:
        raise Refused("an archive has no data.pkl")
      folder = names[0].removesuffix("data.pkl")
      if f"{folder}byteorder" in archive.namelist():
        if archive.read(f"{folder}byteorder") != b"little":
          raise Refused("an archive is not little-endian")
      known = {}

      def storage(pid):
        dtype, key, size = _storage_id(pid)
        if key not in known:
          info = archive.getinfo(f"{folder}data/{key}")
          if info.file_size != size * dtype.itemsize:
            raise Refused("a storage is not as long as it says")
          known[key] = np.frombuffer(archive.read(info), dtype)
        return known[key]

      data = io.BytesIO(archive.read(names[0]))
      return unpickling.load(data, table, storage)
  except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError) as error:
    raise Refused(f"an archive in it is damaged ({error})") from error


def _legacy(file, table):
  for expected in (LEGACY_MAGIC, PROTOCOL):
    if unpickling.load(file, {}) != expected:
      raise Refused("an archive in it is of no known format")
  about = unpickling.load(file, {})
  if not isinstance(about, dict) or not about.get("little_endian", True):
    raise Refused("an archive is not little-endian")
  # The object comes first and refers to storages whose bytes come last.
  storages: dict[str, np.ndarray] = {}

  def storage(pid):
    match pid:
      case ("module", type() as kind, _, _):  # a class, with its source code
        return kind
    dtype, key, size = _storage_id(pid)
    if key not in storages:
      if size * dtype.itemsize > _left(file):
        raise Refused("a storage is cut short")
      storages[key] = np.zeros(size, dtype)
    return storages[key]

  result = unpickling.load(file, table, storage)
  keys = unpickling.load(file, {})
  if not isinstance(keys, list) or sorted(keys) != sorted(storages):
    raise Refused("an archive lacks storages")
  for key in keys:
    array = storages[key]
    length = int.from_bytes(file.read(8), "little")
    data = file.read(array.nbytes)
    if length != array.size or len(data) != array.nbytes:
      raise Refused("a storage is cut short")
    array[:] = np.frombuffer(data, array.dtype)
  return result


def _left(file: BinaryIO) -> int:
  here = file.tell()
  end = file.seek(0, io.SEEK_END)
  file.seek(here)
  return end - here


def _storage_id(pid: Any) -> tuple[np.dtype, str, int]:
  """Type, key and number of elements of `("storage", type, key, ...)`."""
  match pid:
    case ("storage", type() as kind, str() as key, _, int() as size, *view):
      if any(part is not None for part in view):
        raise Refused("an archive has a view of a storage")
      name = getattr(kind, "class_name", "")
      if name in STORAGES and size >= 0:
        return np.dtype(STORAGES[name]), key, size
  raise Refused("an archive refers to what is not a storage")
