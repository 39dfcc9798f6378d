"""The Inception-v3 that FID is defined with, as functions of parameters.

It is Google's network of 2015-12-05 (`inception-2015-12-05.tgz`, 1008 classes),
which pytorch-fid, torch-fidelity and NVIDIA ported to PyTorch. It differs from
the paper's (arXiv 1512.00567) and torchvision's in two things: average pooling
does not count padding, and the last block pools by the maximum. Layers have
torchvision's names.

How images are resized before it matters as much. There are two conventions:

| name | resized to 299 | scaled |
|---|---|---|
| `inception` | TensorFlow 1's bilinear | (x - 128) / 128 |
| `inception-pytorch-fid` | torch's bilinear | 2 x / 255 - 1 |

TensorFlow, EDM2 and torch-fidelity use the first one. Neither averages when it
shrinks, and neither rounds to bytes.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from scm_jax.errors import UserError
from scm_jax.metrics import resize

NAMES = ("inception", "inception-pytorch-fid")
SIDE, CLASSES = 299, 1008
EPS = 1e-3  # added to variances by the batch normalisations

Params = dict[str, dict[str, Any]]


class Conv(NamedTuple):
  """Convolution, normalisation and ReLU; `kernel` is (height, width)."""

  name: str
  kernel: tuple[int, int]
  features: int
  stride: int = 1
  padding: str = "SAME"


class Pool(NamedTuple):
  """Maximum, or average without padding, over 3x3 windows."""

  name: str
  maximum: bool
  stride: int = 1


class Fork(NamedTuple):
  """Parallel branches, whose channels are concatenated."""

  name: str
  branches: tuple[tuple[Any, ...], ...]


Layer = Conv | Pool | Fork


def _tower(name: str, *convs: tuple[tuple[int, int], int]) -> tuple[Conv, ...]:
  """Returns a branch of convolutions `name_1`, `name_2`, ... of stride 1."""
  return tuple(
    Conv(f"{name}_{number}", kernel, features)
    for number, (kernel, features) in enumerate(convs, 1)
  )


def _shrink(branch: tuple[Conv, ...]) -> tuple[Conv, ...]:
  """Returns the branch with a last convolution that halves the size."""
  return *branch[:-1], branch[-1]._replace(stride=2, padding="VALID")


_1x1, _3x3, _1x7, _7x1 = (1, 1), (3, 3), (1, 7), (7, 1)
_AVERAGE, _HALVE = Pool("pool", False), Pool("pool", True, 2)
_DOUBLE = _tower("branch3x3dbl", (_1x1, 64), (_3x3, 96), (_3x3, 96))


def _mixed_35(name: str, pooled: int) -> Fork:
  return Fork(
    name,
    (
      (Conv("branch1x1", _1x1, 64),),
      _tower("branch5x5", (_1x1, 48), ((5, 5), 64)),
      _DOUBLE,
      (_AVERAGE, Conv("branch_pool", _1x1, pooled)),
    ),
  )


def _mixed_17(name: str, c: int) -> Fork:
  return Fork(
    name,
    (
      (Conv("branch1x1", _1x1, 192),),
      _tower("branch7x7", (_1x1, c), (_1x7, c), (_7x1, 192)),
      _tower(
        "branch7x7dbl",
        (_1x1, c),
        (_7x1, c),
        (_1x7, c),
        (_7x1, c),
        (_1x7, 192),
      ),
      (_AVERAGE, Conv("branch_pool", _1x1, 192)),
    ),
  )


def _mixed_8(name: str, maximum: bool) -> Fork:
  def ends(stem: str) -> Fork:
    wide, high = Conv(f"{stem}a", (1, 3), 384), Conv(f"{stem}b", (3, 1), 384)
    return Fork("", ((wide,), (high,)))

  double = _tower("branch3x3dbl", (_1x1, 448), (_3x3, 384))
  return Fork(
    name,
    (
      (Conv("branch1x1", _1x1, 320),),
      (*_tower("branch3x3", (_1x1, 384)), ends("branch3x3_2")),
      (*double, ends("branch3x3dbl_3")),
      (Pool("pool", maximum), Conv("branch_pool", _1x1, 192)),
    ),
  )


_MIXED_7A = _tower("branch7x7x3", (_1x1, 192), (_1x7, 192), (_7x1, 192))
LAYERS: tuple[Layer, ...] = (
  Conv("Conv2d_1a_3x3", _3x3, 32, 2, "VALID"),
  Conv("Conv2d_2a_3x3", _3x3, 32, 1, "VALID"),
  Conv("Conv2d_2b_3x3", _3x3, 64),
  Pool("MaxPool_1", True, 2),
  Conv("Conv2d_3b_1x1", _1x1, 80),
  Conv("Conv2d_4a_3x3", _3x3, 192, 1, "VALID"),
  Pool("MaxPool_2", True, 2),
  _mixed_35("Mixed_5b", 32),
  _mixed_35("Mixed_5c", 64),
  _mixed_35("Mixed_5d", 64),
  Fork(
    "Mixed_6a",
    (
      _shrink((Conv("branch3x3", _3x3, 384),)),
      _shrink(_DOUBLE),
      (_HALVE,),
    ),
  ),
  _mixed_17("Mixed_6b", 128),
  _mixed_17("Mixed_6c", 160),
  _mixed_17("Mixed_6d", 160),
  _mixed_17("Mixed_6e", 192),
  Fork(
    "Mixed_7a",
    (
      _shrink(_tower("branch3x3", (_1x1, 192), (_3x3, 320))),
      _shrink((*_MIXED_7A, Conv("branch7x7x3_4", _3x3, 192))),
      (_HALVE,),
    ),
  ),
  _mixed_8("Mixed_7b", maximum=False),
  _mixed_8("Mixed_7c", maximum=True),
)


def shapes(width: float = 1.0) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of the filters by name.

  They are [h, w, in, out], and [in, classes] of the last layer, `fc`.

  Args:
    width: share of the channels that a narrower network of this form has, in
      sixteenths.
  """
  *filters, (_, last) = _shapes(LAYERS, 3, width, "")
  return dict(filters) | {"fc": (*last, CLASSES)}


def _shapes(
  layers: Sequence[Layer], channels: int, width: float, prefix: str
) -> Iterator[tuple[str, tuple[int, ...]]]:
  """Yields names and shapes of filters, and last ("", (output channels,))."""
  for layer in layers:
    if isinstance(layer, Conv):
      features = round(layer.features * width)
      yield prefix + layer.name, (*layer.kernel, channels, features)
      channels = features
    elif isinstance(layer, Fork):
      name = f"{prefix}{layer.name}." if layer.name else prefix
      total = 0
      for branch in layer.branches:
        *inner, (_, last) = _shapes(branch, channels, width, name)
        yield from inner
        total += last[0]
      channels = total
  yield "", (channels,)


def layers(params: Params, x: Array) -> dict[str, Array]:
  """Computes the outputs of all layers, by name.

  Args:
    params: the network's parameters.
    x: [B, 299, 299, 3] in [-1, 1].
  """
  outputs = {}
  for layer in LAYERS:
    x = outputs[layer.name] = _apply(layer, params, x, "")
  return outputs


def _apply(layer: Layer, params: Params, x: Array, prefix: str) -> Array:
  if isinstance(layer, Conv):
    p = params[prefix + layer.name]
    filtered = lax.conv_general_dilated(
      x,
      p["kernel"],
      (layer.stride, layer.stride),
      layer.padding,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=lax.Precision.HIGHEST,  # as PyTorch's float32
    )
    return jax.nn.relu(filtered + p["bias"])
  if isinstance(layer, Pool):
    return _pool(layer, x)
  name = f"{prefix}{layer.name}." if layer.name else prefix
  parts = []
  for branch in layer.branches:
    y = x
    for inner in branch:
      y = _apply(inner, params, y, name)
    parts.append(y)
  return jnp.concatenate(parts, axis=-1)


def _pool(layer: Pool, x: Array) -> Array:
  """Pools without padding at a stride of 2; a stride of 1 keeps the size."""
  window, stride = (1, 3, 3, 1), layer.stride
  strides, padding = (1, stride, stride, 1), "SAME" if stride == 1 else "VALID"
  if layer.maximum:
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
  counts = [np.convolve(np.ones(n), np.ones(3), "same") for n in x.shape[1:3]]
  total = lax.reduce_window(x, 0.0, lax.add, window, strides, padding)
  return total / jnp.asarray(np.outer(*counts)[None, :, :, None], x.dtype)


def prepare(images: Array, name: str = "inception") -> Array:
  """Returns the network's input [B, 299, 299, 3].

  Args:
    images: uint8 [B, H, W, C] with 3 channels, or with 1, which is repeated.
    name: the convention of the resizing, one of `NAMES`.

  Raises:
    UserError: the images have another number of channels.
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


def logits(params: Params, features: Array, *, bias: bool = False) -> Array:
  """Computes logits [B, 1008] of features [B, dim].

  The Inception Score is computed from those without the bias, since the
  TensorFlow original multiplied by the last layer's matrix alone.
  """
  fc = params["fc"]
  found = jnp.dot(features, fc["kernel"], precision=lax.Precision.HIGHEST)
  return found + fc["bias"] if bias else found


@dataclasses.dataclass(frozen=True, eq=False)
class InceptionExtractor:
  """The 2048 features of the last pooling, and logits without bias.

  Attributes:
    params: filters with the normalisation folded in, as
      `inception_weights.params` returns them.
    name: the convention of the resizing, one of `NAMES`; also the key of its
      scores in reports.
  """

  params: Params
  name: str = "inception"
  outputs = ("features", "logits")

  @property
  def dim(self) -> int:
    """Returns the number of features: 2048 in the published network."""
    return len(self.params["fc"]["kernel"])

  def apply(self, params: Params, images: Array) -> dict[str, Array]:
    """Computes `features` [B, dim] and `logits` [B, 1008].

    Args:
      params: the parameters.
      images: uint8 [B, H, W, C].
    """
    last = layers(params, prepare(images, self.name))["Mixed_7c"]
    features = last.mean(axis=(1, 2))
    return {"features": features, "logits": logits(params, features)}
