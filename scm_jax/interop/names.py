"""EDM2's parameters by PyTorch's names and by ours, in both directions.

The two differ in names, in the order of axes (PyTorch's filters are OIHW and
`[out, in]`, ours HWIO and `[in, out]`), and in the unit of the Fourier
features' frequencies and phases (radians there, turns here). Weights keep their
magnitude: EDM2 normalises them where it uses them, ours where they are loaded
(`magnitude.normalize_weights`).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Path = tuple[str, ...]

_WHOLE: dict[str, Path] = {
  "unet.out_gain": ("denoiser", "out_gain"),
  "unet.out_conv.weight": ("denoiser", "conv_out", "weight"),
  "logvar_linear.weight": ("weighting", "linear", "weight"),
  **{
    f"unet.emb_{kind}.weight": (
      *("denoiser", "embedding", f"emb_{kind}"),
      "weight",
    )
    for kind in ("noise", "label")
  },
  **{
    f"{theirs}.{name}": (*ours, long)
    for theirs, ours in (
      ("unet.emb_fourier", ("denoiser", "embedding", "fourier")),
      ("logvar_fourier", ("weighting", "fourier")),
    )
    for name, long in (("freqs", "frequencies"), ("phases", "phases"))
  },
}
_IN_BLOCK: dict[str, Path] = {
  "conv_res0.weight": ("conv0", "weight"),
  "conv_res1.weight": ("conv1", "weight"),
  "conv_skip.weight": ("skip", "weight"),
  "emb_gain": ("modulation", "gain"),
  "emb_scale_gain": ("modulation", "scale_gain"),  # these two are ours alone
  "emb_shift_gain": ("modulation", "shift_gain"),
  "emb_linear.weight": ("modulation", "emb", "weight"),
  "attn_qkv.weight": ("attention", "qkv", "weight"),
  "attn_proj.weight": ("attention", "proj", "weight"),
}
_THEIR_BLOCK = re.compile(
  r"unet\.(enc|dec)\.(\d+)x\2_(?:block)?(\d+|down|up|in0|in1)\.(.+)"
)
_THEIR_CONV = re.compile(r"unet\.enc\.(\d+)x\1_conv\.weight")
_OUR_BLOCK = re.compile(r"(enc|dec)_(\d+)_(\d+|down|up|in0|in1)")
_CONV_IN = ("denoiser", "conv_in", "weight")


def to_path(name: str) -> Path | None:
  """Where `name` of theirs is in our parameters; None for no EDM2 name."""
  if name in _WHOLE:
    return _WHOLE[name]
  if _THEIR_CONV.fullmatch(name):
    return _CONV_IN
  match = _THEIR_BLOCK.fullmatch(name)
  if not match or match[4] not in _IN_BLOCK:
    return None
  side, resolution, block, rest = match.groups()
  return ("denoiser", f"{side}_{resolution}_{block}", *_IN_BLOCK[rest])


def to_name(path: Path, resolution: int) -> str:
  """What they call the parameter at `path`, of a network for `resolution`.

  Raises:
    KeyError: theirs have none such.
  """
  ours = {path: name for name, path in _WHOLE.items()}
  if path in ours:
    return ours[path]
  if path == _CONV_IN:
    return f"unet.enc.{resolution}x{resolution}_conv.weight"
  in_block = {path: name for name, path in _IN_BLOCK.items()}
  match = _OUR_BLOCK.fullmatch(path[1]) if len(path) > 2 else None
  if not match or path[2:] not in in_block:
    raise KeyError("/".join(path))
  side, size, block = match.groups()
  block = f"block{block}" if block.isdigit() else block
  return f"unet.{side}.{size}x{size}_{block}.{in_block[path[2:]]}"


def to_ours(tensor: np.ndarray, path: Path) -> np.ndarray:
  """A tensor of theirs with our axes and units."""
  if path[-1] in ("frequencies", "phases"):
    return tensor / np.float32(2 * math.pi)
  if tensor.ndim == 4:
    return tensor.transpose(2, 3, 1, 0)
  return tensor.T


def to_theirs(array: np.ndarray, path: Path) -> np.ndarray:
  """The inverse of `to_ours`."""
  if path[-1] in ("frequencies", "phases"):
    return array * np.float32(2 * math.pi)
  if array.ndim == 4:
    return array.transpose(3, 2, 0, 1)
  return array.T


def params_from_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Parameters of our `edm2` form from those of EDM2's `Precond`.

  Args:
    tensors: by PyTorch's names (`unet.enc.64x64_conv.weight`), float32.

  Returns:
    The nested dict; filters as they are, to be normalised before they are used
    by `magnitude.normalize_weights(params, magnitude.EPS)`.

  Raises:
    KeyError: a name that EDM2's networks do not have.
  """
  params: dict[str, Any] = {}
  for name, tensor in tensors.items():
    path = to_path(name)
    if path is None:
      raise KeyError(name)
    group = params
    for key in path[:-1]:
      group = group.setdefault(key, {})
    group[path[-1]] = np.asarray(to_ours(tensor, path), order="C")
  return params


def params_to_torch(
  params: Mapping[str, Any], resolution: int
) -> dict[str, np.ndarray]:
  """The inverse of `params_from_torch`, for a network of `resolution`."""

  def leaves(group, path):
    for key, value in group.items():
      if isinstance(value, Mapping):
        yield from leaves(value, (*path, key))
      else:
        yield (*path, key), np.asarray(value)

  return {
    to_name(path, resolution): np.asarray(to_theirs(array, path), order="C")
    for path, array in leaves(params, ())
  }
