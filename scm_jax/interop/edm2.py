"""Public EDM2 network pickles as tensors by PyTorch's names, and their config.

Such a file is a pickled dict: `ema` holds the network as an object of EDM2's
classes; `encoder` holds the mapping between pixels and the network's data; the
rest says how it was trained.
"""

import dataclasses
import os
from typing import Any

import numpy as np

from scm_jax import errors
from scm_jax.interop import pickled_numpy, state_dict, torch_archive
from scm_jax.interop.state_dict import Tensors
from scm_jax.interop.unpickling import Record, Refused

_MODULES = ("Precond", "UNet", "ModuleDict", "Block", "MPConv", "MPFourier")
# Attributes of EDM2's published networks that our network takes for granted.
_FIXED = {
  "Block": {
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
    "resample_filter": [1, 1],
  },
  "UNet": {"label_balance": 0.5, "concat_balance": 0.5},
}


@dataclasses.dataclass(frozen=True)
class Encoder:
  """The mapping from stored data to the network's: `(data - mean) * scale`.

  Attributes:
    latents: whether the data are Stable Diffusion's latents; otherwise they are
      pixels in [-1, 1].
    mean: the mean of the stored data, a number or one for each channel.
    std: the standard deviation of the stored data, in the same form. It is
      scaled to the network's `sigma_d`.
  """

  latents: bool
  mean: float | tuple[float, ...]
  std: float | tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Pickle:
  """The parts of a network pickle that are used.

  Attributes:
    tensors: float32 arrays by PyTorch's names, from `Precond` down.
    sigma_d: the standard deviation of the network's data.
    resolution: the side of the network's data.
    channels: the number of channels of the network's data.
    classes: the number of classes; 0 if the network is unconditional.
    channels_per_head: the width of an attention head; 0 without attention.
    encoder: the mapping from stored data; None if the file has none.
  """

  tensors: Tensors
  sigma_d: float
  resolution: int
  channels: int
  classes: int
  channels_per_head: int
  encoder: Encoder | None


def read(path: str | os.PathLike[str]) -> Pickle:
  """Reads a network pickle; nothing in it is executed.

  Raises:
    UserError: the file cannot be read, is damaged, or holds something other
      than an EDM2 network.
  """
  with errors.reading(path), open(path, "rb") as file:
    content = torch_archive.load(file, state_dict.ADMITTED)
    if not isinstance(content, dict) or "ema" not in content:
      raise Refused("it holds no 'ema', and so it is not an EDM2 network")
    network = content["ema"]
    _expect_class(network, "Precond")
    tensors = state_dict.named_tensors(network)
    sigma_d = _number(network, "sigma_data", float)
    return Pickle(
      tensors={name: _finite(name, value) for name, value in tensors.items()},
      sigma_d=sigma_d,
      resolution=_number(network, "img_resolution", int),
      channels=_number(network, "img_channels", int),
      classes=_number(network, "label_dim", int),
      channels_per_head=_head_width(network),
      encoder=_encoder(content.get("encoder"), sigma_d),
    )


def _finite(name: str, tensor: Any) -> np.ndarray:
  if not isinstance(tensor, np.ndarray):
    raise Refused(f"{name} is not a tensor")
  tensor = np.asarray(tensor, np.float32)
  if not np.isfinite(tensor).all():
    raise Refused(f"{name} is not finite")
  return tensor


def _expect_class(record: Any, *names: str) -> None:
  name = getattr(record, "class_name", type(record).__name__)
  if not isinstance(record, Record) or name not in names:
    raise Refused(f"it has a {name} in place of {' or '.join(names)}")


def _number(record: Record, name: str, kind: type) -> Any:
  value = record.state.get(name)
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise Refused(f"{record.class_name}.{name} is not a number")
  return kind(value)


def _head_width(network: Record) -> int:
  """Returns the width of the network's attention heads; 0 without attention.

  Raises:
    Refused: a module is of another class, or has other constants than EDM2's.
  """
  widths = set()
  for _, module in state_dict.modules(network):
    _expect_class(module, *_MODULES)
    for name, value in _FIXED.get(module.class_name, {}).items():
      if module.state.get(name) != value:
        raise Refused(
          f"{module.class_name}.{name} is {str(module.state.get(name))[:40]}; "
          f"only EDM2's {value} can be imported"
        )
    if module.class_name == "Block" and module.state.get("num_heads"):
      heads = _number(module, "num_heads", int)
      widths.add(_number(module, "out_channels", int) // heads)
  if len(widths) > 1:
    raise Refused("its attention heads differ in width")
  return widths.pop() if widths else 0


def _encoder(record: Any, sigma_d: float) -> Encoder | None:
  if record is None:
    return None
  _expect_class(record, "StandardRGBEncoder", "StabilityVAEEncoder")
  if record.class_name == "StandardRGBEncoder":
    return Encoder(latents=False, mean=0.0, std=sigma_d)
  scale, bias = _vector(record, "scale"), _vector(record, "bias")
  mean, std = _rounded(-bias / scale), _rounded(sigma_d / scale)
  return Encoder(latents=True, mean=mean, std=std)


def _rounded(vector: np.ndarray) -> tuple[float, ...]:
  """Rounds to six digits, which undoes the rounding to float32 in the file."""
  return tuple(float(f"{x:.6g}") for x in vector)


def _vector(record: Record, name: str) -> np.ndarray:
  value = record.state.get(name)
  if not isinstance(value, pickled_numpy.Array) or value.value.ndim != 1:
    raise Refused(f"{record.class_name}.{name} is not a vector")
  return value.value.astype(np.float64)
