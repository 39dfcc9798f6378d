"""The Inception-v3 that FID is defined with, as functions of parameters.

It is Google's network of 2015-12-05 (`inception-2015-12-05.tgz`, 1008 classes).
It differs from the paper's (arXiv 1512.00567) and torchvision's in that average
pooling does not count padding, and that the last block pools by the maximum.
Layers have torchvision's names. There are two conventions of the input:

| name | resized to 299 | scaled | used by |
|---|---|---|---|
| `inception` | TensorFlow 1's bilinear | (x - 128) / 128 | EDM2, TensorFlow |
| `inception-pytorch-fid` | torch's bilinear | 2 x / 255 - 1 | pytorch-fid |

and two kinds of names in public files of its weights: torchvision's
(pytorch-fid, torch-fidelity), and those of the TensorFlow graph (NVIDIA's
`inception-2015-12-05.pkl` of StyleGAN3 and EDM2).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from scm_jax.errors import UserError
from scm_jax.interop.state_dict import Misfit, Tensors, take
from scm_jax.metrics import resize
from scm_jax.metrics.extractor import Extractor

NAMES = ("inception", "inception-pytorch-fid")
URL = (
  "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
  "pt_inception-2015-12-05-6726825d.pth"
)
SIDE, CLASSES = 299, 1008
SPATIAL_LAYER, SPATIAL_CHANNELS = "Mixed_6d", 7  # of sFID
EPS = 1e-3  # added to variances by the batch normalisations

Params = dict[str, dict[str, Any]]
# conv(name, x, features, kernel, stride=1, padding="SAME"): convolution,
# normalisation and ReLU; the kernel is (height, width).
Conv = Callable[..., Array]

_1x1, _3x3, _1x3, _3x1 = (1, 1), (3, 3), (1, 3), (3, 1)
_5x5, _1x7, _7x1 = (5, 5), (1, 7), (7, 1)
_HALVE = 2, "VALID"  # stride and padding

# The layers before the blocks; those without features pool by the maximum.
_STEM: dict[str, tuple[Any, ...]] = {
  "Conv2d_1a_3x3": (32, _3x3, *_HALVE),
  "Conv2d_2a_3x3": (32, _3x3, 1, "VALID"),
  "Conv2d_2b_3x3": (64, _3x3),
  "MaxPool_1": (),
  "Conv2d_3b_1x1": (80, _1x1),
  "Conv2d_4a_3x3": (192, _3x3, 1, "VALID"),
  "MaxPool_2": (),
}


def _maximum(x: Array, stride: int, padding: str) -> Array:
  """Returns the maxima of 3x3 windows."""
  window, strides = (1, 3, 3, 1), (1, stride, stride, 1)
  return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


def _average(x: Array) -> Array:
  """Returns the averages of 3x3 windows, in which padding is not counted."""
  window, strides = (1, 3, 3, 1), (1, 1, 1, 1)
  counts = [np.convolve(np.ones(n), np.ones(3), "same") for n in x.shape[1:3]]
  total = lax.reduce_window(x, 0.0, lax.add, window, strides, "SAME")
  return total / jnp.asarray(np.outer(*counts)[None, :, :, None], x.dtype)


def _tower(conv: Conv, x: Array, name: str, *layers: tuple[Any, ...]) -> Array:
  """Applies convolutions `name_1`, `name_2`, ..., one after the other."""
  for number, layer in enumerate(layers, 1):
    x = conv(f"{name}_{number}", x, *layer)
  return x


def _mixed_35(conv: Conv, x: Array, pooled: int) -> list[Array]:
  double = (64, _1x1), (96, _3x3), (96, _3x3)
  return [
    conv("branch1x1", x, 64, _1x1),
    _tower(conv, x, "branch5x5", (48, _1x1), (64, _5x5)),
    _tower(conv, x, "branch3x3dbl", *double),
    conv("branch_pool", _average(x), pooled, _1x1),
  ]


def _mixed_35_to_17(conv: Conv, x: Array) -> list[Array]:
  double = (64, _1x1), (96, _3x3), (96, _3x3, *_HALVE)
  return [
    conv("branch3x3", x, 384, _3x3, *_HALVE),
    _tower(conv, x, "branch3x3dbl", *double),
    _maximum(x, *_HALVE),
  ]


def _mixed_17(conv: Conv, x: Array, c: int) -> list[Array]:
  double = (c, _1x1), (c, _7x1), (c, _1x7), (c, _7x1), (192, _1x7)
  return [
    conv("branch1x1", x, 192, _1x1),
    _tower(conv, x, "branch7x7", (c, _1x1), (c, _1x7), (192, _7x1)),
    _tower(conv, x, "branch7x7dbl", *double),
    conv("branch_pool", _average(x), 192, _1x1),
  ]


def _mixed_17_to_8(conv: Conv, x: Array) -> list[Array]:
  seven = (192, _1x1), (192, _1x7), (192, _7x1), (192, _3x3, *_HALVE)
  return [
    _tower(conv, x, "branch3x3", (192, _1x1), (320, _3x3, *_HALVE)),
    _tower(conv, x, "branch7x7x3", *seven),
    _maximum(x, *_HALVE),
  ]


def _mixed_8(conv: Conv, x: Array, pool: Callable[[Array], Array]):
  single = conv("branch3x3_1", x, 384, _1x1)
  double = _tower(conv, x, "branch3x3dbl", (448, _1x1), (384, _3x3))
  return [
    conv("branch1x1", x, 320, _1x1),
    conv("branch3x3_2a", single, 384, _1x3),
    conv("branch3x3_2b", single, 384, _3x1),
    conv("branch3x3dbl_3a", double, 384, _1x3),
    conv("branch3x3dbl_3b", double, 384, _3x1),
    conv("branch_pool", pool(x), 192, _1x1),
  ]


# Their branches' channels are concatenated.
_BLOCKS: dict[str, Callable[[Conv, Array], list[Array]]] = {
  "Mixed_5b": functools.partial(_mixed_35, pooled=32),
  "Mixed_5c": functools.partial(_mixed_35, pooled=64),
  "Mixed_5d": functools.partial(_mixed_35, pooled=64),
  "Mixed_6a": _mixed_35_to_17,
  "Mixed_6b": functools.partial(_mixed_17, c=128),
  "Mixed_6c": functools.partial(_mixed_17, c=160),
  "Mixed_6d": functools.partial(_mixed_17, c=160),
  "Mixed_6e": functools.partial(_mixed_17, c=192),
  "Mixed_7a": _mixed_17_to_8,
  "Mixed_7b": functools.partial(_mixed_8, pool=_average),
  "Mixed_7c": functools.partial(
    _mixed_8, pool=lambda x: _maximum(x, 1, "SAME")
  ),
}


def _network(conv: Conv, x: Array) -> dict[str, Array]:
  """Returns the outputs of all layers, by name, with any convolution."""
  outputs = {}
  for name, layer in _STEM.items():
    x = conv(name, x, *layer) if layer else _maximum(x, *_HALVE)
    outputs[name] = x
  for name, block in _BLOCKS.items():
    inner = lambda branch, *rest, name=name: conv(f"{name}.{branch}", *rest)
    x = outputs[name] = jnp.concatenate(block(inner, x), axis=-1)
  return outputs


def _filter(x: Array, kernel: Array, stride: int, padding: str) -> Array:
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=lax.Precision.HIGHEST,  # as PyTorch's float32
  )


def shapes(width: float = 1.0) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of the filters by name.

  They are [h, w, in, out], and [in, classes] of the last layer, `fc`. A width
  is the share of the channels, in sixteenths, that a narrower network has.
  """
  found: dict[str, tuple[int, ...]] = {}

  def conv(name, x, features, kernel, stride=1, padding="SAME"):
    found[name] = (*kernel, x.shape[-1], round(features * width))
    return _filter(x, jnp.zeros(found[name]), stride, padding)

  image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
  last = jax.eval_shape(functools.partial(_network, conv), image)["Mixed_7c"]
  return found | {"fc": (last.shape[-1], CLASSES)}


def layers(params: Params, x: Array) -> dict[str, Array]:
  """Computes the outputs of all layers, by name, of what `prepare` returns.

  Filters include normalisation, as `from_tensors` returns them.
  """

  def conv(name, x, features, kernel, stride=1, padding="SAME"):
    del features, kernel  # the parameters tell
    found = _filter(x, params[name]["kernel"], stride, padding)
    return jax.nn.relu(found + params[name]["bias"])

  return _network(conv, x)


def prepare(images: Array, name: str = "inception") -> Array:
  """Returns the network's input [B, 299, 299, 3] of uint8 [B, H, W, C].

  The name says by which convention. C must be 3, or 1, which is repeated.
  """
  images = as_rgb(images)
  pytorch_fid = name == "inception-pytorch-fid"
  matrix = resize.bilinear_torch if pytorch_fid else resize.bilinear_tf1
  rows, columns = (matrix(size, SIDE) for size in images.shape[1:3])
  x = resize.resize(images, rows, columns)
  return x / 127.5 - 1.0 if pytorch_fid else (x - 128.0) / 128.0


def as_rgb(images: Array) -> Array:
  """Returns images [B, H, W, 3], repeating a single channel.

  Raises:
    UserError: the images have neither 1 nor 3 channels.
  """
  channels = images.shape[-1]
  if channels not in (1, 3):
    raise UserError(
      f"images of {list(images.shape[1:])} cannot be given to a published "
      "network, which needs 1 or 3 channels"
    )
  return jnp.broadcast_to(images, (*images.shape[:-1], 3))


def outputs(
  params: Params, images: Array, name: str = "inception"
) -> dict[str, Array]:
  """Computes what metrics need of uint8 images.

  They are `features` [B, dim], `logits` [B, 1008], and `spatial` features
  [B, 2023], the first of the channels of a layer without their average.
  """
  found = layers(params, prepare(images, name))
  features = found["Mixed_7c"].mean(axis=(1, 2))
  # The first channels are those of the branch that the graph's `conv` is.
  spatial = found[SPATIAL_LAYER][..., :SPATIAL_CHANNELS]
  # Without the bias: the Inception Score's TensorFlow original multiplied by
  # the last layer's matrix alone.
  kernel = params["fc"]["kernel"]
  logits = jnp.dot(features, kernel, precision=lax.Precision.HIGHEST)
  spatial = spatial.reshape(len(spatial), -1)
  return {"features": features, "logits": logits, "spatial": spatial}


# The graph's layers are, in the order of `shapes`: before the blocks `conv` to
# `conv_4`, and in a block `conv`, `conv_1`, ... after each of these prefixes.
_35 = {"": 1, "tower.": 2, "tower_1.": 3, "tower_2.": 1}
_17 = {"": 1, "tower.": 3, "tower_1.": 5, "tower_2.": 1}
_8 = {"tower_": 1, "tower_1_": 2, "": 1, "tower_mixed_": 2}
_8 |= {"tower_1_mixed_": 2, "tower_2_": 1}
_35_TO_17, _17_TO_8 = {"": 1, "tower.": 3}, {"tower.": 2, "tower_1.": 4}
_GRAPH = ({"": 5}, *[_35] * 3, _35_TO_17, *[_17] * 4, _17_TO_8, *[_8] * 2)
_PARTS = {
  "weight": "conv.weight",
  "beta": "bn.bias",
  "mean": "bn.running_mean",
  "var": "bn.running_var",
}


def from_tensors(tensors: Tensors) -> Params:
  """Returns the network's parameters; its filters include normalisation.

  Tensors have torchvision's names, or those of NVIDIA's file. A network of the
  same form, narrower by sixteenths, is taken as well.

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
  filters = shapes(len(first) / 32)
  features, classes = filters.pop("fc")
  found = {name: _folded(left, name, shape) for name, shape in filters.items()}
  found["fc"] = {
    "kernel": take(left, "fc.weight", (classes, features)).T,
    "bias": take(left, "fc.bias", (classes,)),
  }
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
  gain = gain / np.sqrt(part("running_var") + EPS)
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
  layer, _, part = name.rpartition(".")
  if layer == "output":
    return f"fc.{part}"
  known = _graph_names()
  if layer not in known or part not in _PARTS:
    raise Misfit(f"it has {name}, which FID's network does not have")
  return f"{known[layer]}.{_PARTS[part]}"


@functools.cache
def _graph_names() -> dict[str, str]:
  """Returns torchvision's names of all convolutions, by the graph's names."""
  blocks = ["", *(f"mixed_{i}".removesuffix("_0") + "." for i in range(11))]
  graph = [
    f"layers.{block}{prefix}conv_{i}".removesuffix("_0")
    for block, prefixes in zip(blocks, _GRAPH, strict=True)
    for prefix, count in prefixes.items()
    for i in range(count)
  ]
  ours = [name for name in shapes() if name != "fc"]
  return dict(zip(graph, ours, strict=True))


def extractor(tensors: Tensors, name: str = "inception") -> Extractor:
  """Returns the extractor of this name; see `from_tensors` for its weights."""
  params = jax.device_put(from_tensors(tensors))
  apply = functools.partial(outputs, name=name)
  dim = len(params["fc"]["kernel"])
  given = ("features", "logits", "spatial")
  return Extractor(name, dim, params, apply, given)
