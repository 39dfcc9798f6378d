"""Public EDM2 network pickles, as tensors by PyTorch's names and a config.

Such a file is a pickled dict: `ema`, a network as EDM2's classes hold it;
`encoder`, between its data and pixels; and how it was trained. EDM2's
persistence stores beside every object the source code of its class, which
PyTorch's users execute. Here it is text, and is dropped.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.interop import arrays, tensors, unpickling
from scm_jax.interop.unpickling import Dict, Record, Refused

Tensors = dict[str, np.ndarray]  # by PyTorch's names


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Between stored data and what the network sees, `(data - mean) * scale`.

  Attributes:
    latents: whether the data are Stability's latents; else pixels in [-1, 1].
    mean: of the stored data.
    std: likewise, so that the network's data have `sigma_d`.
  """

  latents: bool
  mean: float | tuple[float, ...]
  std: float | tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Pickle:
  """What is used of a file.

  Attributes:
    tensors: float32, by PyTorch's names from `Precond` down.
    sigma_d: standard deviation of the network's data.
    resolution, channels, classes: of the data; 0 classes is unconditional.
    channels_per_head: width of an attention head.
    encoder: how data become the network's; None if the file does not say.
  """

  tensors: Tensors
  sigma_d: float
  resolution: int
  channels: int
  classes: int
  channels_per_head: int
  encoder: Encoder | None


def _persistent(meta: Any) -> Record:
  """`torch_utils.persistence._reconstruct_persistent_obj`, inert."""
  if not isinstance(meta, dict) or meta.get("type") != "class":
    raise Refused("it has a persistent object of an unknown kind")
  name = meta.get("class_name")
  record = unpickling.record_type(str(name))()()
  record.state = unpickling.as_state(meta.get("state"))
  return record


_DICTS = (
  ("collections", "OrderedDict"),
  ("dnnlib.util", "EasyDict"),
  ("builtins", "dict"),
)
_PERSISTENCE = "torch_utils.persistence", "_reconstruct_persistent_obj"
_CONTAINER = "torch.nn.modules.container", "ModuleDict"
ADMITTED: unpickling.Table = {
  **tensors.TENSORS,
  **arrays.ARRAYS,
  **{name: unpickling.dict_type for name in _DICTS},
  _PERSISTENCE: unpickling.call(_persistent),
  _CONTAINER: unpickling.record_type("ModuleDict"),
  ("builtins", "set"): unpickling.call(set),
  ("__builtin__", "set"): unpickling.call(set),  # as older pickles name it
}


def read(path: str) -> Pickle:
  """Reads a network pickle; nothing in it is executed.

  Raises:
    UserError: it cannot be read, names what no EDM2 network needs, or is
      damaged; one line.
  """
  try:
    with pathlib.Path(path).open("rb") as file:
      archive = tensors.is_archive(file)
      load = tensors.load_archive if archive else unpickling.load
      return _interpret(load(file, ADMITTED))
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from error
  except Refused as error:
    raise UserError(
      f"{path} is not taken for an EDM2 network: {error}; nothing in it was "
      "executed"
    ) from error


def _interpret(content: Any) -> Pickle:
  if not isinstance(content, dict) or "ema" not in content:
    raise Refused("it holds no 'ema'")
  network = content["ema"]
  _expect_class(network, "Precond")
  found = {
    name: np.asarray(tensor, np.float32)
    for name, tensor in _named_tensors(network, "").items()
  }
  if not all(np.isfinite(tensor).all() for tensor in found.values()):
    raise Refused("it has weights that are not finite")
  sigma_d = _number(network, "sigma_data", float)
  return Pickle(
    tensors=found,
    sigma_d=sigma_d,
    resolution=_number(network, "img_resolution", int),
    channels=_number(network, "img_channels", int),
    classes=_number(network, "label_dim", int),
    channels_per_head=_check_blocks(network),
    encoder=_encoder(content.get("encoder"), sigma_d),
  )


def _expect_class(record: Any, *names: str) -> None:
  name = getattr(record, "class_name", type(record).__name__)
  if not isinstance(record, Record) or name not in names:
    raise Refused(f"it has a {name} in place of {' or '.join(names)}")


def _number(record: Record, name: str, kind: type) -> Any:
  value = record.state.get(name)
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise Refused(f"{record.class_name}.{name} is not a number")
  return kind(value)


def _children(module: Record) -> dict[str, Record]:
  modules = _mapping(module, "_modules")
  return {k: v for k, v in modules.items() if v is not None}


def _mapping(module: Record, name: str) -> dict[str, Any]:
  value = module.state.get(name) or {}
  if not isinstance(value, dict):
    raise Refused(f"{module.class_name}.{name} is not a dict")
  return value


_MODULES = "UNet", "ModuleDict", "Block", "MPConv", "MPFourier"


def _named_tensors(module: Record, prefix: str, depth: int = 0) -> Tensors:
  """Parameters and buffers, as PyTorch's `state_dict` names them."""
  if depth > 8:  # EDM2's have 5; a module that holds itself has no end
    raise Refused("its modules are nested too deep")
  found = {}
  for group in ("_parameters", "_buffers"):
    for name, tensor in _mapping(module, group).items():
      if not isinstance(tensor, np.ndarray):
        raise Refused(f"{prefix}{name} is not a tensor")
      found[f"{prefix}{name}"] = tensor
  for name, child in _children(module).items():
    _expect_class(child, *_MODULES)
    found |= _named_tensors(child, f"{prefix}{name}.", depth + 1)
  return found


# What EDM2's published networks have, and ours assumes.
_FIXED = {
  "Block": {
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
    "resample_filter": [1, 1],
  },
  "UNet": {"label_balance": 0.5, "concat_balance": 0.5},
}


def _check_blocks(module: Record) -> int:
  """Checks all modules' attributes; returns the width of attention heads."""
  widths = set()
  for name, value in _FIXED.get(module.class_name, {}).items():
    if module.state.get(name) != value:
      raise Refused(
        f"{module.class_name}.{name} is {str(module.state.get(name))[:40]}; "
        f"only EDM2's {value} can be imported"
      )
  if module.class_name == "Block" and module.state.get("num_heads"):
    heads = _number(module, "num_heads", int)
    widths.add(_number(module, "out_channels", int) // heads)
  for child in _children(module).values():
    widths |= {_check_blocks(child)} - {0}
  if len(widths) > 1:
    raise Refused("its attention heads differ in width")
  return widths.pop() if widths else 0


def _encoder(record: Any, sigma_d: float) -> Encoder | None:
  if record is None:
    return None
  _expect_class(record, "StandardRGBEncoder", "StabilityVAEEncoder")
  if record.class_name == "StandardRGBEncoder":
    return Encoder(latents=False, mean=0.0, std=sigma_d)
  scale, bias = (_vector(record, name) for name in ("scale", "bias"))
  mean, std = -bias / scale, sigma_d / scale
  # Six digits undo the rounding of the float32 they were stored in.
  rounded = lambda v: tuple(float(f"{x:.6g}") for x in v)
  return Encoder(latents=True, mean=rounded(mean), std=rounded(std))


def _vector(record: Record, name: str) -> np.ndarray:
  value = record.state.get(name)
  if not isinstance(value, arrays.Array) or value.value.ndim != 1:
    raise Refused(f"{record.class_name}.{name} is not a vector")
  return value.value.astype(np.float64)


__all__ = ["ADMITTED", "Dict", "Encoder", "Pickle", "Tensors", "read"]
