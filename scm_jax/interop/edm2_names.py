"""EDM2's parameters by PyTorch's names and by ours, in both directions.

The two differ in names, in the order of axes (PyTorch's filters are OIHW and
`[out, in]`, ours are HWIO and `[in, out]`), and in the unit of the Fourier
features' frequencies and phases (radians there, turns here). Weights keep their
magnitude: EDM2 normalises them where it uses them, and ours are normalised
where they are loaded (`magnitude.normalize_weights`).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

Path = tuple[str, ...]


def _paths(table: Mapping[str, str]) -> dict[str, Path]:
  return {name: tuple(path.split("/")) for name, path in table.items()}


def _inverse(table: Mapping[str, Path]) -> dict[Path, str]:
  return {path: name for name, path in table.items()}


_SINGLE = _paths(
  {
    "unet.emb_fourier.freqs": "denoiser/embedding/fourier/frequencies",
    "unet.emb_fourier.phases": "denoiser/embedding/fourier/phases",
    "unet.emb_noise.weight": "denoiser/embedding/emb_noise/weight",
    "unet.emb_label.weight": "denoiser/embedding/emb_label/weight",
    "unet.out_conv.weight": "denoiser/conv_out/weight",
    "unet.out_gain": "denoiser/out_gain",
    "logvar_fourier.freqs": "weighting/fourier/frequencies",
    "logvar_fourier.phases": "weighting/fourier/phases",
    "logvar_linear.weight": "weighting/linear/weight",
  }
)
_IN_BLOCK = _paths(
  {
    "conv_res0.weight": "conv0/weight",
    "conv_res1.weight": "conv1/weight",
    "conv_skip.weight": "skip/weight",
    "emb_gain": "modulation/gain",
    "emb_scale_gain": "modulation/scale_gain",  # EDM2 has neither this
    "emb_shift_gain": "modulation/shift_gain",  # nor this; our exports do
    "emb_linear.weight": "modulation/emb/weight",
    "attn_qkv.weight": "attention/qkv/weight",
    "attn_proj.weight": "attention/proj/weight",
  }
)
_SINGLE_NAMES, _IN_BLOCK_NAMES = _inverse(_SINGLE), _inverse(_IN_BLOCK)
_TORCH_BLOCK = re.compile(
  r"unet\.(enc|dec)\.(\d+)x\2_(?:block)?(\d+|down|up|in0|in1)\.(.+)"
)
_TORCH_CONV_IN = re.compile(r"unet\.enc\.(\d+)x\1_conv\.weight")
_BLOCK = re.compile(r"(enc|dec)_(\d+)_(\d+|down|up|in0|in1)")
_CONV_IN = ("denoiser", "conv_in", "weight")


def to_path(name: str) -> Path | None:
  """Returns the path in our parameters of the tensor that PyTorch calls `name`.

  It is None if EDM2's networks have no tensor of that name.
  """
  if name in _SINGLE:
    return _SINGLE[name]
  if _TORCH_CONV_IN.fullmatch(name):
    return _CONV_IN
  match = _TORCH_BLOCK.fullmatch(name)
  if not match or match[4] not in _IN_BLOCK:
    return None
  side, resolution, block, rest = match.groups()
  return ("denoiser", f"{side}_{resolution}_{block}", *_IN_BLOCK[rest])


def to_name(path: Path, resolution: int) -> str:
  """Returns PyTorch's name of the parameter at `path`.

  Args:
    path: the keys in our parameters.
    resolution: the side of the network's input, which is part of a name.

  Raises:
    KeyError: EDM2's networks have no such parameter.
  """
  if path in _SINGLE_NAMES:
    return _SINGLE_NAMES[path]
  if path == _CONV_IN:
    return f"unet.enc.{resolution}x{resolution}_conv.weight"
  match = _BLOCK.fullmatch(path[1]) if len(path) > 2 else None
  if not match or path[2:] not in _IN_BLOCK_NAMES:
    raise KeyError("/".join(path))
  side, size, block = match.groups()
  block = f"block{block}" if block.isdigit() else block
  return f"unet.{side}.{size}x{size}_{block}.{_IN_BLOCK_NAMES[path[2:]]}"


def to_ours(tensor: np.ndarray, path: Path) -> np.ndarray:
  """Converts a tensor of PyTorch's to the axes and units of ours at `path`."""
  if path[-1] in ("frequencies", "phases"):
    return tensor / np.float32(2 * math.pi)
  if tensor.ndim == 4:
    return tensor.transpose(2, 3, 1, 0)
  return tensor.T


def to_theirs(array: np.ndarray, path: Path) -> np.ndarray:
  """Converts our array at `path` to PyTorch's axes and units."""
  if path[-1] in ("frequencies", "phases"):
    return array * np.float32(2 * math.pi)
  if array.ndim == 4:
    return array.transpose(3, 2, 0, 1)
  return array.T


def params_from_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns our parameters in the `edm2` form from those of EDM2's `Precond`.

  Args:
    tensors: float32 arrays by PyTorch's names (`unet.enc.64x64_conv.weight`).

  Returns:
    The nested dict of parameters. The filters have the magnitudes that they
    have in the file; normalise them with `magnitude.normalize_weights(params,
    magnitude.EPS)` before use.

  Raises:
    KeyError: EDM2's networks have no tensor of that name.
  """
  flat = {}
  for name, tensor in tensors.items():
    path = to_path(name)
    if path is None:
      raise KeyError(name)
    flat[path] = np.asarray(to_ours(tensor, path), order="C")
  return traverse_util.unflatten_dict(flat)
