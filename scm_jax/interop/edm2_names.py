"""EDM2's parameters by PyTorch's names and by ours.

The two differ in names, in the order of axes (PyTorch's filters are OIHW and
`[out, in]`, ours are HWIO and `[in, out]`), and in the unit of the Fourier
features' frequencies and phases (radians there, turns here). Weights keep their
magnitude: EDM2 normalises them where it uses them, and ours are normalised
where they are loaded (`magnitude.normalize_weights`).
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from scm_jax import networks
from scm_jax.interop import state_dict

Path = tuple[str, ...]
_TURN = np.float32(2 * math.pi)
_ANGLES = ("frequencies", "phases")
_SINGLE = {
  "denoiser/embedding/fourier/frequencies": "unet.emb_fourier.freqs",
  "denoiser/embedding/fourier/phases": "unet.emb_fourier.phases",
  "denoiser/embedding/emb_noise/weight": "unet.emb_noise.weight",
  "denoiser/embedding/emb_label/weight": "unet.emb_label.weight",
  # EDM2 has no inputs of a guidance scale or a second time; our exports do.
  "denoiser/embedding/emb_guidance/kernel": "unet.emb_guidance.weight",
  "denoiser/embedding/emb_target/kernel": "unet.emb_target.weight",
  "denoiser/conv_out/weight": "unet.out_conv.weight",
  "denoiser/out_gain": "unet.out_gain",
  "weighting/fourier/frequencies": "logvar_fourier.freqs",
  "weighting/fourier/phases": "logvar_fourier.phases",
  "weighting/linear/weight": "logvar_linear.weight",
}
_IN_BLOCK = {
  "conv0/weight": "conv_res0.weight",
  "conv1/weight": "conv_res1.weight",
  "skip/weight": "conv_skip.weight",
  "modulation/gain": "emb_gain",
  "modulation/scale_gain": "emb_scale_gain",  # EDM2 has neither this
  "modulation/shift_gain": "emb_shift_gain",  # nor this; our exports do
  "modulation/emb/weight": "emb_linear.weight",
  "attention/qkv/weight": "attn_qkv.weight",
  "attention/proj/weight": "attn_proj.weight",
}
_BLOCK = re.compile(r"denoiser/(enc|dec)_(\d+)_(\d+|down|up|in0|in1)/(.+)")


def to_name(path: Path, side: int) -> str:
  """Returns PyTorch's name of the parameter at `path`.

  The `side` of the features at the first level is part of a name.

  Raises:
    KeyError: EDM2's networks have no such parameter.
  """
  ours = "/".join(path)
  if ours == "denoiser/conv_in/weight":
    return f"unet.enc.{side}x{side}_conv.weight"
  match = _BLOCK.fullmatch(ours)
  if not match or match[4] not in _IN_BLOCK:
    return _SINGLE[ours]
  part, size, block, rest = match.groups()
  block = f"block{block}" if block.isdigit() else block
  return f"unet.{part}.{size}x{size}_{block}.{_IN_BLOCK[rest]}"


def to_theirs(array: np.ndarray, path: Path) -> np.ndarray:
  """Converts our array at `path` to PyTorch's axes and units."""
  return state_dict.to_theirs(array * _TURN if path[-1] in _ANGLES else array)


def params_from_tensors(
  config: networks.NetworkConfig, tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Returns a network's parameters from float32 tensors by PyTorch's names.

  The filters have the magnitudes that they have in the file; normalise them
  with `magnitude.normalize_weights(params, magnitude.EPS)` before use.

  Raises:
    Misfit: the tensors are not those of a network of the config.
  """
  shapes = networks.build(config).shapes
  assert isinstance(config, networks.UNetConfig)
  name = functools.partial(to_name, side=config.sides[0])
  found = state_dict.fitted(tensors, shapes, name)
  for path, array in found.items():
    if path[-1] in _ANGLES:
      found[path] = array / _TURN
  return traverse_util.unflatten_dict(found)
