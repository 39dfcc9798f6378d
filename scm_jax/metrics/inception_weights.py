"""The weights of FID's Inception-v3, from each of the files that are public.

| file | names of its tensors |
|---|---|
| pytorch-fid's, torch-fidelity's `...-6726825d.pth` | torchvision's |
| NVIDIA's `inception-2015-12-05.pkl` (StyleGAN3, EDM2) | the TF graph's |
| safetensors, written from either | as in the source |
"""

import re
from collections.abc import Mapping

import jax
import numpy as np

from scm_jax.interop.state_dict import Misfit, take
from scm_jax.metrics import inception

FETCH = (
  "fetch https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
  "pt_inception-2015-12-05-6726825d.pth"
)

_STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
_MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
# The graph's towers in a block; a key is a block's name or its first digit.
_TOWERS: dict[str, dict[str, str]] = {
  "5": {
    "conv": "branch1x1",
    "tower": "branch5x5",
    "tower_1": "branch3x3dbl",
    "tower_2": "branch_pool",
  },
  "6a": {"conv": "branch3x3", "tower": "branch3x3dbl"},
  "6": {
    "conv": "branch1x1",
    "tower": "branch7x7",
    "tower_1": "branch7x7dbl",
    "tower_2": "branch_pool",
  },
  "7a": {"tower": "branch3x3", "tower_1": "branch7x7x3"},
}
# The graph's layers in the blocks 7b and 7c, which have no towers there.
_LAST = {
  "conv": "branch1x1",
  "tower_conv": "branch3x3_1",
  "tower_mixed_conv": "branch3x3_2a",
  "tower_mixed_conv_1": "branch3x3_2b",
  "tower_1_conv": "branch3x3dbl_1",
  "tower_1_conv_1": "branch3x3dbl_2",
  "tower_1_mixed_conv": "branch3x3dbl_3a",
  "tower_1_mixed_conv_1": "branch3x3dbl_3b",
  "tower_2_conv": "branch_pool",
}
_PARTS = {
  "weight": "conv.weight",
  "beta": "bn.bias",
  "mean": "bn.running_mean",
  "var": "bn.running_var",
}
_NUMBERED = re.compile(r"(conv|mixed)(?:_(\d+))?")


def params(tensors: Mapping[str, np.ndarray]) -> inception.Params:
  """Returns the network's parameters; its filters include normalisation.

  Args:
    tensors: arrays by torchvision's names, or by those of NVIDIA's file. A
      network of the same form, narrower by sixteenths, is taken as well.

  Raises:
    Misfit: the tensors belong to another network.
  """
  if any(name.startswith("layers.") for name in tensors):
    tensors = {to_torchvision(name): t for name, t in tensors.items()}
  if any(name.startswith("AuxLogits.") for name in tensors):
    raise Misfit("it is torchvision's ImageNet network, not FID's")
  left = {n: t for n, t in tensors.items() if "num_batches_tracked" not in n}
  first = left.get("Conv2d_1a_3x3.conv.weight")
  if first is None or first.ndim != 4:
    raise Misfit("it has no Conv2d_1a_3x3.conv.weight")
  found = {}
  for name, shape in inception.shapes(len(first) / 32).items():
    if name == "fc":
      kernel, bias = take(left, "fc.weight", shape[::-1]), shape[1:]
      found[name] = {"kernel": kernel.T, "bias": take(left, "fc.bias", bias)}
    else:
      found[name] = _folded(left, name, shape)
  if left:
    raise Misfit(f"it has {min(left)}, which FID's network does not have")
  return found


def _folded(left, name, shape):
  """Returns the filter [h, w, in, out] and bias that include normalisation."""
  h, w, features_in, features = shape
  kernel = take(left, f"{name}.conv.weight", (features, features_in, h, w))

  def part(of_norm):
    found = take(left, f"{name}.bn.{of_norm}", (features,))
    return found.astype(np.float64)

  # NVIDIA's file has no gains: all are 1.
  gain = part("weight") if f"{name}.bn.weight" in left else np.ones(features)
  gain = gain / np.sqrt(part("running_var") + inception.EPS)
  bias = part("bias") - part("running_mean") * gain
  return {
    "kernel": (kernel.transpose(2, 3, 1, 0) * gain).astype(np.float32),
    "bias": bias.astype(np.float32),
  }


def to_torchvision(name: str) -> str:
  """Returns torchvision's name of the tensor that NVIDIA's file calls `name`.

  NVIDIA kept the names of the TensorFlow graph: the layer of
  `layers.mixed_4.tower_1.conv_2.weight` is `Mixed_6b.branch7x7dbl_3`.

  Raises:
    Misfit: FID's network has no such tensor.
  """
  match name.split("."):
    case ["output", part]:
      return f"fc.{part}"
    case ["layers", block, *path, part] if part in _PARTS:
      found = _NUMBERED.fullmatch(block)
      if found:
        return f"{_layer(found, path, name)}.{_PARTS[part]}"
  raise Misfit(f"it has {name}, which FID's network does not have")


def _layer(block: re.Match[str], path: list[str], name: str) -> str:
  try:
    number = int(block[2] or 0)
    if block[1] == "conv" and not path:
      return f"Conv2d_{_STEM[number]}"
    mixed = _MIXED[number]
    if mixed in ("7b", "7c"):
      [last] = path
      return f"Mixed_{mixed}.{_LAST[last]}"
    branch = _TOWERS[mixed if mixed in _TOWERS else mixed[0]][path[0]]
    # A tower of one convolution is not numbered.
    if len(path) == 2 and branch != "branch_pool":
      conv = _NUMBERED.fullmatch(path[1])
      branch += f"_{int(conv[2] or 0) + 1}" if conv else ""
    return f"Mixed_{mixed}.{branch}"
  except (KeyError, IndexError, ValueError) as error:
    raise Misfit(f"it has {name}, which FID's network does not have") from error


def extractor(
  tensors: Mapping[str, np.ndarray], name: str = "inception"
) -> inception.InceptionExtractor:
  """Returns the extractor that a file's tensors make.

  Args:
    tensors: arrays as for `params`.
    name: the extractor's name, which says how images are resized.

  Raises:
    Misfit: the tensors belong to another network.
  """
  placed = jax.device_put(params(tensors))
  return inception.InceptionExtractor(placed, name)
