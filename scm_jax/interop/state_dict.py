"""The tensors of a PyTorch network's file, read without PyTorch.

| file | holds |
|---|---|
| `.safetensors` | tensors by name |
| `.pth`, `.pt`, `.bin` | a state dict or a network, written by `torch.save` |
| `.pkl` | a pickled network, as NVIDIA's persistence writes it |

NVIDIA's persistence stores beside every object the source code of its class,
which PyTorch's users execute. Here it is text and is dropped; nothing in a file
is executed (see `unpickling`).
"""

import hashlib
import os
import pathlib
import re
from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np

from scm_jax import errors
from scm_jax.interop import (
  pickled_numpy,
  safetensors,
  torch_archive,
  unpickling,
)
from scm_jax.interop.unpickling import Call, Dict, Record, Refused

Tensors = dict[str, np.ndarray]  # by PyTorch's names
# `torch.hub` puts the beginning of a file's SHA-256 into the file's name.
_HASHED = re.compile(r".*-([0-9a-f]{8})\.pth")


class Misfit(ValueError):
  """An error: tensors do not belong to a network; its message is one line."""


def read(path: str | os.PathLike[str]) -> Tensors:
  """Reads the tensors of a file, by PyTorch's names.

  Raises:
    UserError: the file cannot be read, is damaged, or holds something else.
  """
  path = pathlib.Path(path)
  if path.suffix == ".safetensors":
    return safetensors.read(path)[0]
  with errors.reading(path), path.open("rb") as file:
    _check_hash(path)
    content = torch_archive.load(file, ADMITTED)
    if isinstance(content, Record):
      content = named_tensors(content)
    if not isinstance(content, dict) or not content:
      raise Refused("it holds no tensors by name")
    for name, value in content.items():
      if not isinstance(name, str) or not isinstance(value, np.ndarray):
        raise Refused(f"{str(name)[:60]!r} in it is not a tensor")
    return dict(content)


def take(
  left: MutableMapping[str, np.ndarray], name: str, shape: tuple[int, ...]
) -> np.ndarray:
  """Removes one tensor from a mapping and returns it as float32.

  Args:
    left: the tensors that have not been taken yet.
    name: the tensor's name.
    shape: the shape that it must have.

  Raises:
    Misfit: the tensor is missing, of another shape, or not finite.
  """
  if name not in left:
    raise Misfit(f"it has no {name}")
  tensor = np.asarray(left.pop(name), np.float32)
  if tensor.shape != tuple(shape):
    raise Misfit(f"its {name} is {list(tensor.shape)} and not {list(shape)}")
  if not np.isfinite(tensor).all():
    raise Misfit(f"its {name} is not finite")
  return tensor


def named_tensors(network: Record) -> dict[str, Any]:
  """Returns parameters and buffers as PyTorch's `state_dict` names them.

  Raises:
    Refused: a module is not made as PyTorch makes modules.
  """
  return {
    f"{prefix}{name}": tensor
    for prefix, module in modules(network)
    for group in ("_parameters", "_buffers")
    for name, tensor in _dict_of(module, group).items()
    if tensor is not None
  }


def modules(network: Record) -> Iterator[tuple[str, Record]]:
  """Yields every module once, after its name and a dot; the network's is "".

  Raises:
    Refused: a module is not made as PyTorch makes modules.
  """
  seen: set[int] = set()  # a damaged module may contain itself
  waiting = [("", network)]
  while waiting:
    prefix, module = waiting.pop()
    if id(module) in seen:
      continue
    seen.add(id(module))
    yield prefix, module
    for name, child in _dict_of(module, "_modules").items():
      if isinstance(child, Record):
        waiting.append((f"{prefix}{name}.", child))
      elif child is not None:
        raise Refused(f"{prefix}{name} is not a module")


def _dict_of(module: Record, name: str) -> dict[str, Any]:
  value = module.state.get(name) or {}
  if not isinstance(value, dict):
    raise Refused(f"{module.class_name}.{name} is not a dict")
  return value


def _check_hash(path: pathlib.Path) -> None:
  match = _HASHED.fullmatch(path.name)
  if not match:
    return
  with path.open("rb") as file:
    found = hashlib.file_digest(file, "sha256").hexdigest()
  if not found.startswith(match[1]):
    raise Refused(
      f"its SHA-256 begins with {found[:8]} and not as its name says, so the "
      "download is damaged"
    )


def _persistent(meta: Any) -> Record:
  """Stands in for `torch_utils.persistence._reconstruct_persistent_obj`."""
  if not isinstance(meta, dict) or meta.get("type") != "class":
    raise Refused("it has a persistent object of an unknown kind")
  record = unpickling.record_type(str(meta.get("class_name")))()
  record.state = unpickling.as_state(meta.get("state"))
  return record


class _Admitted(dict[tuple[str, str], Any]):
  """The table of admitted names, and PyTorch's layers as inert records."""

  def __contains__(self, key: Any) -> bool:
    return super().__contains__(key) or key[0].startswith("torch.nn.modules.")

  def __missing__(self, key: tuple[str, str]) -> type[Record]:
    return unpickling.record_type(key[1])


ADMITTED: unpickling.Table = _Admitted(
  {
    **torch_archive.TENSORS,
    **pickled_numpy.ARRAYS,
    ("collections", "OrderedDict"): Dict,
    ("dnnlib.util", "EasyDict"): Dict,
    ("builtins", "dict"): Dict,
    ("builtins", "set"): Call(set),
    ("__builtin__", "set"): Call(set),  # in older pickles
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Call(
      _persistent
    ),
  }
)
