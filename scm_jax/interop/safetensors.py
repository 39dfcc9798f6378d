"""The safetensors file format, read and written with NumPy alone.

A file is eight bytes with the header's length, the header (JSON: each tensor's
type, shape and place), and the tensors' bytes, little-endian.

The package `safetensors` is not used, for what it does as of version 0.8: its
writer puts metadata into a random order, so that two exports of one model
differ; it writes wrong numbers, without an error, for arrays that are not
contiguous, such as transposed filters; and it needs all tensors in memory at
once where a file goes to a bucket. Its reader copies whole tensors, where NumPy
maps them into memory, so that each device reads its own part.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import ml_dtypes  # a dependency of jax
import numpy as np

from scm_jax import errors

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


class UnknownType(ValueError):
  """An error: a tensor has a type that is not read."""


def write(
  stream: BinaryIO,
  tensors: Mapping[str, Any],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes NumPy or JAX arrays by name; one's bytes at a time are in memory.

  The metadata are free text by name, which `read` returns.
  """
  # Wide types come first, so that every tensor is aligned.
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
  """Returns a file's tensors, mapped into memory, and its metadata.

  Raises:
    UserError: the file does not exist, or is damaged.
  """
  with errors.reading(path), open(path, "rb") as stream:
    try:
      start = 8 + int.from_bytes(stream.read(8), "little")
      size = os.path.getsize(path)
      if start > size:
        raise ValueError("the file ends before its header")
      header = json.loads(stream.read(start - 8))
      metadata = header.pop("__metadata__", {})
      data = np.zeros(0, np.uint8)  # an empty file cannot be mapped
      if size > start:
        data = np.memmap(stream, np.uint8, "r", offset=start)
      tensors = {name: _tensor(data, entry) for name, entry in header.items()}
      return tensors, metadata
    except UnknownType:
      raise
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        "it is not a whole safetensors file; copy or export it again"
      ) from error


def _tensor(data: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
  begin, end = entry["data_offsets"]
  if not 0 <= begin <= end <= len(data):
    raise ValueError("the file ends before its tensors")
  if (name := str(entry["dtype"])) not in DTYPES:
    raise UnknownType(f"it has tensors of the type {name[:20]!r}")
  dtype = np.dtype(DTYPES[name])
  return np.asarray(data[begin:end]).view(dtype).reshape(entry["shape"])
