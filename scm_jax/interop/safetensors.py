"""The safetensors file format, with numpy alone.

Eight bytes with the header's length, the header (JSON: each tensor's type,
shape and place), the tensors' bytes, little-endian. Written here and not taken
from a package, so that the light core reads an export with what it has.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import ml_dtypes  # comes with jax
import numpy as np

from scm_jax.errors import UserError

DTYPES: dict[str, Any] = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "U8": np.uint8,
}
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_MAX_HEADER = 100_000_000  # the format's own bound


def write(
  stream: BinaryIO,
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes a file.

  Args:
    stream: to write to; nothing is held in memory but one tensor's bytes.
    tensors: by name; numpy or JAX arrays.
    metadata: free text, read back by `read`.
  """
  # Wide types first, so that every tensor is aligned.
  names = sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n))
  header: dict[str, Any] = {}
  if metadata:
    header["__metadata__"] = dict(metadata)
  end = 0
  for name in names:
    array = tensors[name]
    begin, end = end, end + array.size * array.dtype.itemsize
    header[name] = {
      "dtype": _NAMES[np.dtype(array.dtype)],
      "shape": list(array.shape),
      "data_offsets": [begin, end],
    }
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  stream.write(len(text).to_bytes(8, "little"))
  stream.write(text)
  for name in names:
    stream.write(np.asarray(tensors[name]).tobytes())


def read(
  path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """The tensors of a file, mapped into memory, and its metadata.

  Raises:
    UserError: there is no such file, or it is damaged.
  """
  try:
    with open(path, "rb") as stream:
      header, start = _read_header(stream)
    size = os.path.getsize(path)
    data = (
      np.memmap(path, np.uint8, "r", offset=start)
      if size > start
      else np.zeros(0, np.uint8)
    )
    metadata = header.pop("__metadata__", {})
    tensors = {n: _tensor(data, entry) for n, entry in header.items()}
  except OSError as error:
    raise UserError(
      f"cannot read {os.fspath(path)}: {error.strerror or error}"
    ) from error
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"{os.fspath(path)} is not a whole safetensors file; copy or export it "
      "again"
    ) from error
  return tensors, metadata


def _read_header(stream: BinaryIO) -> tuple[dict[str, Any], int]:
  length = int.from_bytes(stream.read(8), "little")
  if length > _MAX_HEADER:
    raise ValueError("the header is too long")
  header = json.loads(stream.read(length))
  if not isinstance(header, dict):
    raise ValueError("the header is not an object")
  return header, 8 + length


def _tensor(data: Any, entry: Mapping[str, Any]) -> np.ndarray:
  begin, end = entry["data_offsets"]
  if not 0 <= begin <= end <= len(data):
    raise ValueError("the file ends before its tensors")
  dtype = np.dtype(DTYPES[entry["dtype"]])
  return np.asarray(data[begin:end]).view(dtype).reshape(entry["shape"])
