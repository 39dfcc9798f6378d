"""The tensors of a PyTorch network's file, without PyTorch.

| file | holds |
|---|---|
| `.safetensors` | tensors by name |
| `.pth`, `.pt`, `.bin` | what `torch.save` made of a state dict |
| `.pkl` | a network pickled whole, as NVIDIA's persistence does |

Nothing in a file is executed; see `unpickling`.
"""

import hashlib
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.interop import safetensors, tensors, unpickling
from scm_jax.interop.edm2 import ADMITTED
from scm_jax.interop.unpickling import Record, Refused

Tensors = dict[str, np.ndarray]
# `torch.hub` puts the beginning of a file's SHA-256 into its name.
_HASHED = re.compile(r".*-([0-9a-f]{8})\.pth")


class Misfit(Exception):
  """Tensors are not a certain network's; one line says which."""


class _Table(Mapping[tuple[str, str], Callable[[], Any]]):
  """What an EDM2 network may name, and PyTorch's layers as inert records."""

  def __getitem__(self, key: tuple[str, str]) -> Callable[[], Any]:
    if key in ADMITTED:
      return ADMITTED[key]
    module, name = key
    if module.startswith("torch.nn.modules.") and name.isidentifier():
      return unpickling.record_type(name)
    raise KeyError(key)

  def __iter__(self) -> Iterator[tuple[str, str]]:
    return iter(ADMITTED)

  def __len__(self) -> int:
    return len(ADMITTED)


def read(path: str | os.PathLike[str]) -> Tensors:
  """The tensors of a file, by PyTorch's names.

  Raises:
    UserError: it cannot be read, is damaged, or holds something else.
  """
  path = pathlib.Path(path)
  if path.suffix == ".safetensors":
    return safetensors.read(path)[0]
  try:
    _check_hash(path)
    _refuse_programs(path)
    with path.open("rb") as file:
      archive = tensors.is_archive(file)
      load = tensors.load_archive if archive else unpickling.load
      return _named(load(file, _Table()))
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror}") from error
  except zipfile.BadZipFile as error:
    raise UserError(f"{path} is damaged: {error}") from error
  except Refused as error:
    raise UserError(
      f"{path} is not taken for a network's tensors: {error}; nothing in it "
      "was executed"
    ) from error


def take(
  left: MutableMapping[str, np.ndarray], name: str, shape: tuple[int, ...]
) -> np.ndarray:
  """Takes a tensor out of those that are left, as float32.

  Raises:
    Misfit: it is not there, of another shape, or not finite.
  """
  if name not in left:
    raise Misfit(f"it has no {name}")
  tensor = np.asarray(left.pop(name), np.float32)
  if tensor.shape != tuple(shape):
    raise Misfit(f"its {name} is {list(tensor.shape)} and not {list(shape)}")
  if not np.isfinite(tensor).all():
    raise Misfit(f"its {name} is not finite")
  return tensor


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


def _refuse_programs(path: pathlib.Path) -> None:
  """TorchScript's archives look like others, and hold compressed code."""
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      if any(n.endswith("/constants.pkl") for n in archive.namelist()):
        raise Refused("it is a TorchScript program and not tensors by name")


def _named(content: Any) -> Tensors:
  """Tensors of a state dict, or of a network."""
  if isinstance(content, Record):
    content = dict(_of_module(content, ""))
  if not isinstance(content, dict) or not content:
    raise Refused("it holds no tensors by name")
  for name, value in content.items():
    if not isinstance(name, str) or not isinstance(value, np.ndarray):
      raise Refused(f"{str(name)[:60]!r} in it is not a tensor")
  return dict(content)


def _of_module(
  module: Record, prefix: str, depth: int = 0
) -> Iterator[tuple[str, Any]]:
  """Parameters and buffers, as PyTorch's `state_dict` names them."""
  if depth > 16:  # a module that holds itself has no end
    raise Refused("its modules are nested too deep")
  for group in ("_parameters", "_buffers"):
    for name, tensor in _mapping(module, group).items():
      if tensor is not None:
        yield f"{prefix}{name}", tensor
  for name, child in _mapping(module, "_modules").items():
    if isinstance(child, Record):
      yield from _of_module(child, f"{prefix}{name}.", depth + 1)


def _mapping(module: Record, name: str) -> dict[str, Any]:
  value = module.state.get(name) or {}
  if not isinstance(value, dict):
    raise Refused(f"{module.class_name}.{name} is not a dict")
  return value
