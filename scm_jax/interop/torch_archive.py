"""Tensors that `torch.save` and pickle wrote, read by NumPy alone.

PyTorch has two archive formats. Since version 1.6 (DINOv2's `.pth`), it writes
a zip file of a pickle `data.pkl` and raw storages `data/KEY`. The older, legacy
one (FID's Inception `.pth`) is a sequence of pickles and then the storages. Any
PyTorch's `pickle.dump` (EDM2's and NVIDIA's `.pkl`) writes a legacy archive of
each storage inside the pickle.
"""

import io
import math
import zipfile
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from scm_jax.interop import unpickling
from scm_jax.interop.unpickling import Call, Refused

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
# PyTorch's storage classes of the types that weights have, little-endian.
STORAGES = {
  "BFloat16Storage": ml_dtypes.bfloat16,
  "FloatStorage": "<f4",
  "HalfStorage": "<f2",
  "DoubleStorage": "<f8",
  "LongStorage": "<i8",  # batch normalisation counts its batches
  "BoolStorage": "|b1",  # averages know whether they have begun
}


def load(file: BinaryIO, table: unpickling.Table) -> Any:
  """Reads an archive of either format, or else a plain pickle.

  The stream is read from its position. A damaged file may raise anything, and
  `Refused` if it names what the table lacks; see `unpickling.load`.
  """
  start = file.tell()
  head = file.read(32)
  file.seek(start)
  if head.startswith(b"PK\3\4"):
    return _load_zip(file, table)
  # A pickle of the magic number holds it as ten bytes.
  if LEGACY_MAGIC.to_bytes(10, "little") in head:
    return _load_legacy(file, table)
  return unpickling.load(file, table)


def _load_zip(file: BinaryIO, table: unpickling.Table) -> Any:
  with zipfile.ZipFile(file) as archive:
    members = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in members):
      raise Refused("it is a TorchScript program, not tensors by name")
    if any(info.compress_type for info in archive.infolist()):
      raise Refused("it is a compressed zip file, which PyTorch does not write")
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
      raise Refused("it is a zip file without data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in members and archive.read(order) != b"little":
      raise Refused("its storages are not little-endian")
    storages: dict[str, np.ndarray] = {}

    def storage(pid):
      dtype, key, size = _storage_id(pid)
      if key not in storages:
        info = archive.getinfo(f"{folder}data/{key}")
        if info.file_size != size * dtype.itemsize:
          raise Refused(f"storage {key} has another length than is declared")
        storages[key] = np.frombuffer(archive.read(info), dtype)
      return storages[key]

    data = io.BytesIO(archive.read(pickles[0]))
    return unpickling.load(data, table, storage)


def _load_legacy(file: BinaryIO, table: unpickling.Table) -> Any:
  for expected in (LEGACY_MAGIC, PROTOCOL):
    if unpickling.load(file, {}) != expected:
      raise Refused("it is a PyTorch archive of an unknown format")
  system = unpickling.load(file, {})
  if not isinstance(system, dict) or not system.get("little_endian", True):
    raise Refused("its storages are not little-endian")
  here = file.tell()
  left = file.seek(0, io.SEEK_END) - here
  file.seek(here)
  # The object comes first and refers to storages whose bytes come last.
  storages: dict[str, np.ndarray] = {}

  def storage(pid):
    match pid:
      case ("module", type() as kind, _, _):  # a class with its source code
        return kind
    dtype, key, size = _storage_id(pid)
    if key not in storages:
      if size * dtype.itemsize > left:
        raise Refused(f"storage {key} is cut short")
      storages[key] = np.zeros(size, dtype)
    return storages[key]

  result = unpickling.load(file, table, storage)
  keys = unpickling.load(file, {})
  if not isinstance(keys, list) or sorted(keys) != sorted(storages):
    raise Refused("it lacks storages that its tensors need")
  for key in keys:
    array = storages[key]
    length = int.from_bytes(file.read(8), "little")
    data = file.read(array.nbytes)
    if length != array.size or len(data) != array.nbytes:
      raise Refused(f"storage {key} is cut short")
    array[:] = np.frombuffer(data, array.dtype)
  return result


def _storage_id(pid: Any) -> tuple[np.dtype, str, int]:
  """Returns type, key and number of elements of a reference to a storage."""
  match pid:
    case ("storage", type() as kind, str() as key, _, int() as size, *view):
      if any(part is not None for part in view):
        raise Refused("it has a view of a storage in place of a storage")
      name = getattr(kind, "class_name", "")
      if name in STORAGES and size >= 0:
        return np.dtype(STORAGES[name]), key, size
  raise Refused("it refers to something that is not a storage")


def _tensor(
  storage: Any, offset: Any, shape: Any, strides: Any, *options: Any
) -> np.ndarray:
  """Stands in for `torch._utils._rebuild_tensor_v2`: a view of a storage."""
  del options  # whether it has a gradient, hooks, metadata
  if not isinstance(storage, np.ndarray):
    raise Refused("a tensor is not a view of a storage")
  # A view that repeats elements would take more memory than the file, once
  # copied.
  if math.prod(shape) > storage.size:
    raise Refused("a tensor is larger than its storage")
  start, *steps = (storage.itemsize * n for n in (offset, *strides))
  try:
    # Of bytes, because NumPy gives no others of bfloat16 to its views.
    data = storage.view(np.uint8)
    return np.ndarray(shape, storage.dtype, data, start, steps)
  except (OverflowError, TypeError, ValueError) as error:
    raise Refused("a tensor reaches beyond its storage") from error


def _storage_from_bytes(data: Any) -> np.ndarray:
  """Stands in for `torch.storage._load_from_bytes`: an archive of a storage."""
  storage = load(io.BytesIO(data), _STORAGE_TYPES)
  if not isinstance(storage, np.ndarray):
    raise Refused("an archive inside it is not a storage")
  return storage


_STORAGE_TYPES: unpickling.Table = {
  ("torch", name): unpickling.record_type(name) for name in STORAGES
}
TENSORS: unpickling.Table = {
  **_STORAGE_TYPES,
  ("torch._utils", "_rebuild_tensor_v2"): Call(_tensor),
  ("torch._utils", "_rebuild_parameter"): Call(lambda tensor, *_: tensor),
  ("torch.storage", "_load_from_bytes"): Call(_storage_from_bytes),
  ("torch", "Size"): Call(tuple),
}
