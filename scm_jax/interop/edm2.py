"""Public EDM2 network pickles as tensors, and configs of ours for them.

Such a file is a pickled dict: `ema` holds the network as an object of EDM2's
classes, `encoder` the mapping between pixels and the network's data.
"""

import os
import re
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from scm_jax import errors
from scm_jax.defaults import get_defaults
from scm_jax.interop import state_dict, torch_archive
from scm_jax.interop.state_dict import Misfit, Tensors
from scm_jax.interop.unpickling import Array, Record, Refused

BATCH = 2048  # of every published EDM2 network (arXiv 2312.02696, Table 6)
# `edm2-img512-s-2147483-0.130.pkl`: thousands of images, sigma_rel.
_FILE = re.compile(r".*-(\d{5,})-(\d\.\d+)\.pkl")
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


class Pickle(NamedTuple):
  """The parts of a network pickle that are used.

  The data are the fields of `config.data`. The mean and the standard deviation
  are those of the stored data, which are scaled to `sigma_d`.
  """

  tensors: Tensors  # float32, by PyTorch's names, from `Precond` down
  sigma_d: float  # the standard deviation of the network's data
  channels_per_head: int  # the width of an attention head; 0 without attention
  data: dict[str, Any]


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
    tensors = state_dict.named_tensors(network).items()
    sigma_d = _number(network, "sigma_data", float)
    data = {
      "size": _number(network, "img_resolution", int),
      "channels": _number(network, "img_channels", int),
      "num_classes": _number(network, "label_dim", int),
      **_encoding(content.get("encoder"), sigma_d),
    }
    return Pickle(
      {name: np.asarray(tensor, np.float32) for name, tensor in tensors},
      sigma_d,
      _head_width(network),
      data,
    )


def training(file_name: str) -> tuple[int, float]:
  """Returns the training steps and the EMA's width that a file's name states.

  Both are 0 if it states nothing.
  """
  match = _FILE.fullmatch(file_name)
  if not match:
    return 0, 0.0
  # The images are a multiple of the batch, rounded down to thousands.
  return -(-int(match[1]) * 1000 // BATCH), float(match[2])


def config(pickle: Pickle, step: int, sigma_rel: float) -> ConfigDict:
  """Returns the config of a workdir that holds a network as a teacher.

  The network was trained by `step` updates, and its EMA has the width
  `sigma_rel`, or 0 if the width is not known.

  Raises:
    Misfit: the network is not a U-Net of EDM2's.
  """
  c = get_defaults()
  c.run, c.sigma_d, c.ema = "teacher", pickle.sigma_d, (sigma_rel,)
  c.batch_size, c.total_steps = BATCH, max(step, 1)
  try:
    c.network.update(architecture(pickle.tensors, pickle.data["size"]))
  except KeyError as error:
    raise Misfit(f"it has no tensor {error}") from error
  c.network.channels_per_head = pickle.channels_per_head
  with c.data.ignore_type():  # the mean is one number, or one for each channel
    c.data.update(pickle.data)
  return c


def architecture(tensors: Tensors, resolution: int) -> dict[str, Any]:
  """Infers fields of `config.network` from the names and shapes of tensors.

  The resolution is the side of the network's data. Raises KeyError if a tensor
  is missing that the fields are inferred from.
  """

  def width(name: str) -> int:
    return len(tensors[f"unet.{name}"])

  def has(side: int, rest: str) -> bool:
    return f"unet.enc.{side}x{side}_{rest}" in tensors

  sides, blocks = [resolution], 0
  while has(sides[-1] // 2, "block0.emb_gain"):
    sides.append(sides[-1] // 2)
  while has(resolution, f"block{blocks}.emb_gain"):
    blocks += 1
  channels = width("emb_fourier.freqs")
  widths = [width(f"enc.{s}x{s}_block0.conv_res1.weight") for s in sides]
  return {
    "form": "edm2",
    "channels": channels,
    "channel_mult": tuple(width // channels for width in widths),
    "channel_mult_emb": width("emb_noise.weight") // channels,
    "num_blocks": blocks,
    "attn_resolutions": tuple(
      side for side in sides if has(side, "block0.attn_qkv.weight")
    ),
  }


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
  """Checks all modules, and returns the width of attention heads; 0 is none."""
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


def _encoding(record: Any, sigma_d: float) -> dict[str, Any]:
  """Returns the fields of `config.data` that a file's encoder decides."""
  if record is not None:
    _expect_class(record, "StandardRGBEncoder", "StabilityVAEEncoder")
  if getattr(record, "class_name", "") != "StabilityVAEEncoder":
    return {"kind": "images", "mean": 0.0, "std": sigma_d}
  scale, bias = (_vector(record, name) for name in ("scale", "bias"))
  # Six digits undo the rounding to float32 in the file.
  digits = lambda vector: tuple(float(f"{x:.6g}") for x in vector)
  return {
    "kind": "latents",
    "mean": digits(-bias / scale),
    "std": digits(sigma_d / scale),
    "image_range": (0.0, 1.0),  # as Stable Diffusion's VAE was trained
  }


def _vector(record: Record, name: str) -> np.ndarray:
  value = record.state.get(name)
  if not isinstance(value, Array) or value.value.ndim != 1:
    raise Refused(f"{record.class_name}.{name} is not a vector")
  return value.value.astype(np.float64)
