"""The tensors of a PyTorch network's file, read without PyTorch.

A file holds tensors by name (`.safetensors`), a state dict or a network written
by `torch.save` (`.pth`), or a pickled network (`.pkl`). NVIDIA's persistence
stores beside every object of a pickle the source code of its class, which
PyTorch's users execute; here it is dropped, and nothing in a file is executed.
"""

import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
from flax import traverse_util

from scm_jax import errors
from scm_jax.interop import safetensors, torch_archive, unpickling
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
    if match := _HASHED.fullmatch(path.name):
      found = hashlib.file_digest(file, "sha256").hexdigest()[:8]
      if found != match[1]:
        raise Refused(
          f"its SHA-256 begins with {found} and not as its name says, so the "
          "download is damaged"
        )
      file.seek(0)
    return named_tensors(torch_archive.load(file, ADMITTED))


def take(
  left: MutableMapping[str, np.ndarray], name: str, shape: tuple[int, ...]
) -> np.ndarray:
  """Removes the tensor `name` from a mapping and returns it as float32.

  Raises:
    Misfit: the tensor is missing, not of the shape, or not finite.
  """
  if name not in left:
    raise Misfit(f"it has no {name}")
  tensor = np.asarray(left.pop(name), np.float32)
  if tensor.shape != tuple(shape):
    raise Misfit(f"its {name} is {list(tensor.shape)} and not {list(shape)}")
  if not np.isfinite(tensor).all():
    raise Misfit(f"its {name} is not finite")
  return tensor


def fitted(
  tensors: Mapping[str, np.ndarray], shapes: Any, name: Callable[..., str]
) -> dict[tuple[str, ...], np.ndarray]:
  """Returns a network's parameters by path, float32, copied from tensors.

  The `shapes` of the parameters are a nested dict; `name` returns PyTorch's
  name of the parameter at a path.

  Raises:
    Misfit: the tensors are not those of the network.
  """
  left, found = dict(tensors), {}
  for path, leaf in traverse_util.flatten_dict(shapes).items():
    shape = to_theirs(np.broadcast_to(False, leaf.shape)).shape
    tensor = take(left, name(path), shape)
    found[path] = np.array(to_ours(tensor), order="C")
  if left:
    raise Misfit(f"it also has {min(left)}")
  return found


def to_ours(tensor: Any) -> Any:
  """Returns a tensor in JAX's order of axes: OIHW becomes HWIO."""
  return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def to_theirs(array: Any) -> Any:
  """Returns an array in PyTorch's order of axes, the inverse of `to_ours`."""
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def named_tensors(content: Any) -> Tensors:
  """Returns the tensors of a state dict, or those that a network's would have.

  Raises:
    Refused: it is neither, or holds something other than tensors.
  """
  if isinstance(content, Record):
    content = {
      f"{prefix}{name}": tensor
      for prefix, module in modules(content)
      for group in ("_parameters", "_buffers")
      for name, tensor in _dict_of(module, group).items()
      if tensor is not None
    }
  if not isinstance(content, dict) or not content:
    raise Refused("it holds no tensors by name")
  for name, value in content.items():
    if not isinstance(name, str) or not isinstance(value, np.ndarray):
      raise Refused(f"{str(name)[:60]!r} in it is not a tensor")
  return dict(content)


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


_PERSISTENT = "torch_utils.persistence", "_reconstruct_persistent_obj"
ADMITTED: unpickling.Table = _Admitted(
  {
    **torch_archive.TENSORS,
    **unpickling.ARRAYS,
    ("collections", "OrderedDict"): Dict,
    ("dnnlib.util", "EasyDict"): Dict,
    ("builtins", "dict"): Dict,
    ("builtins", "set"): Call(set),
    ("__builtin__", "set"): Call(set),  # in older pickles
    # The flags of a training script, beside its weights.
    ("argparse", "Namespace"): unpickling.record_type("Namespace"),
    _PERSISTENT: Call(_persistent),
  }
)
