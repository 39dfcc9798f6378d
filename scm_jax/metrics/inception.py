"""The Inception-v3 that FID is defined with, as functions of parameters.

It is Google's of 2015-12-05 (`inception-2015-12-05.tgz`, 1008 classes), which
pytorch-fid, torch-fidelity and NVIDIA carry over to PyTorch. It departs from
the paper's (arXiv 1512.00567) and torchvision's in two things: average pooling
counts no padding, and the last block pools by the maximum. Layers have
torchvision's names.

What comes before it is as important, and there are two conventions:

| name | resized to 299 | scaled |
|---|---|---|
| `inception` | TensorFlow 1's bilinear | (x - 128) / 128 |
| `inception-pytorch-fid` | torch's bilinear | 2 x / 255 - 1 |

The first is TensorFlow's, EDM2's and torch-fidelity's. Neither averages when it
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
EPS = 1e-3  # of the batch normalisations, folded into the filters

Params = dict[str, dict[str, Any]]


class Conv(NamedTuple):
  """Convolution, normalisation, rectifier; `kernel` is (height, width)."""

  name: str
  kernel: tuple[int, int]
  features: int
  stride: int = 1
  padding: str = "SAME"


class Pool(NamedTuple):
  """Over 3x3 windows: the maximum, or the average of what is no padding."""

  name: str
  maximum: bool
  stride: int = 1


class Fork(NamedTuple):
  """Branches side by side, their channels one after another."""

  name: str
  branches: tuple[tuple[Any, ...], ...]


Layer = Conv | Pool | Fork


def _tower(name: str, *convs: tuple[tuple[int, int], int]) -> tuple[Conv, ...]:
  """A branch of convolutions `name_1`, `name_2`, ..., not strided."""
  return tuple(
    Conv(f"{name}_{number}", kernel, features)
    for number, (kernel, features) in enumerate(convs, 1)
  )


def _shrink(branch: tuple[Conv, ...]) -> tuple[Conv, ...]:
  """The branch whose last convolution halves height and width."""
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
        *((_1x1, c), (_7x1, c), (_1x7, c), (_7x1, c), (_1x7, 192)),
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
  """Shapes of the filters [h, w, in, out] by name, and of `fc` [in, classes].

  Args:
    width: of a narrower network of the same form, in sixteenths.
  """
  *filters, (_, last) = _shapes(LAYERS, 3, width, "")
  return dict(filters) | {"fc": (*last, CLASSES)}


def _shapes(
  layers: Sequence[Layer], channels: int, width: float, prefix: str
) -> Iterator[tuple[str, tuple[int, ...]]]:
  """Filters' shapes; the last item, of no name, is the output's channels."""
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
  """The outputs of all layers by name, for x [B, 299, 299, 3] in [-1, 1]."""
  outputs = {}
  for layer in LAYERS:
    x = outputs[layer.name] = _apply(layer, params, x, "")
  return outputs


def _apply(layer: Layer, params: Params, x: Array, prefix: str) -> Array:
  if isinstance(layer, Conv):
    p = params[prefix + layer.name]
    return jax.nn.relu(
      lax.conv_general_dilated(
        *(x, p["kernel"], (layer.stride, layer.stride), layer.padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,  # as PyTorch's float32
      )
      + p["bias"]
    )
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
  """Halves without padding; a stride of 1 keeps the size."""
  window, stride = (1, 3, 3, 1), layer.stride
  strides, padding = (1, stride, stride, 1), "SAME" if stride == 1 else "VALID"
  if layer.maximum:
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
  counts = [np.convolve(np.ones(n), np.ones(3), "same") for n in x.shape[1:3]]
  total = lax.reduce_window(x, 0.0, lax.add, window, strides, padding)
  return total / jnp.asarray(np.outer(*counts)[None, :, :, None], x.dtype)


def prepare(images: Array, name: str = "inception") -> Array:
  """The network's input [B, 299, 299, 3] from uint8 images [B, H, W, C].

  Args:
    images: with 3 channels, or 1, which is repeated.
    name: of the convention, of `NAMES`.

  Raises:
    UserError: another number of channels.
  """
  images = as_rgb(images)
  pytorch_fid = name == "inception-pytorch-fid"
  matrix = resize.bilinear_torch if pytorch_fid else resize.bilinear_tf1
  rows, columns = (matrix(size, SIDE) for size in images.shape[1:3])
  x = resize.resize(images, rows, columns)
  return x / 127.5 - 1.0 if pytorch_fid else (x - 128.0) / 128.0


def as_rgb(images: Array) -> Array:
  """Images [B, H, W, 3] from images with 3 channels, or 1, which is repeated.

  Raises:
    UserError: another number of channels.
  """
  channels = images.shape[-1]
  if channels not in (1, 3):
    raise UserError(
      f"images of {list(images.shape[1:])} have no colours that a published "
      "network knows: 1 or 3 channels are needed"
    )
  return jnp.broadcast_to(images, (*images.shape[:-1], 3))


def logits(params: Params, features: Array, *, bias: bool = False) -> Array:
  """Logits [B, 1008] of features [B, dim].

  Without the bias they are what the Inception Score is computed from, since
  the TensorFlow original multiplied by the last layer's matrix alone.
  """
  fc = params["fc"]
  found = jnp.dot(features, fc["kernel"], precision=lax.Precision.HIGHEST)
  return found + fc["bias"] if bias else found


@dataclasses.dataclass(frozen=True, eq=False)
class InceptionExtractor:
  """Features of the last pooling, 2048, and logits without bias.

  Attributes:
    params: filters with normalisation folded in; see `inception_weights`.
    name: of the convention, of `NAMES`.
  """

  params: Params
  name: str = "inception"

  @property
  def dim(self) -> int:
    """Number of features: 2048 in the published network."""
    return len(self.params["fc"]["kernel"])

  def apply(self, params: Params, images: Array) -> dict[str, Array]:
    """`features` [B, dim], `logits` [B, 1008] of uint8 images [B, H, W, C]."""
    last = layers(params, prepare(images, self.name))["Mixed_7c"]
    features = last.mean(axis=(1, 2))
    return {"features": features, "logits": logits(params, features)}
