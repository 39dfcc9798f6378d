"""DINOv2's vision transformer, whose features FD-DINOv2 is computed from.

Features are the class token after the last normalisation: 1024 numbers of
ViT-L/14 (arXiv 2304.07193) for images of 224 pixels (arXiv 2306.04675). All
sizes follow from the tensors; heads are 64 wide in every published network.

| name | resized to 224 | used by |
|---|---|---|
| `dinov2` | torch's antialiased bicubic, in floats | EDM2 |
| `dinov2-dgm-eval` | Pillow's bicubic, rounded to bytes | dgm-eval |

The two filters are the same; only the second one clips and rounds. Then both
subtract ImageNet's mean and divide by its standard deviation.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from scm_jax.metrics import resize
from scm_jax.metrics.inception import as_rgb

NAMES = ("dinov2", "dinov2-dgm-eval")
SIDE, PATCH, HEAD = 224, 14, 64
EPS = 1e-6  # added to variances by the layer normalisations
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels
# Facebook's code adds this to the number of patches a side when it resamples
# the position embedding, and the published features are computed that way.
OFFSET = 0.1

Params = dict[str, Any]


def prepare(images: Array, name: str = "dinov2") -> Array:
  """Returns the network's input [B, 224, 224, 3].

  Args:
    images: uint8 [B, H, W, C] with 3 channels, or with 1, which is repeated.
    name: the convention of the resizing, one of `NAMES`.

  Raises:
    UserError: the images have another number of channels.
  """
  images = as_rgb(images)
  if name == "dinov2-dgm-eval":
    x = resize.bicubic_pillow(images, SIDE, SIDE).astype(jnp.float32)
  else:
    height, width = images.shape[1:3]
    rows = resize.bicubic_antialiased(height, SIDE)
    x = resize.resize(images, rows, resize.bicubic_antialiased(width, SIDE))
  return (x / 255.0 - jnp.asarray(MEAN)) / jnp.asarray(STD)


def tokens(params: Params, x: Array) -> Array:
  """Computes all tokens [B, 1 + patches, D] after the last normalisation.

  Args:
    params: the network's parameters, as `dinov2_weights.params` returns them.
    x: [B, H, W, 3], normalised; sides are multiples of 14 and equal.
  """
  x = lax.conv_general_dilated(
    x,
    params["patch"]["kernel"],
    (PATCH, PATCH),
    "VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=lax.Precision.HIGHEST,
  )
  x = x + params["patch"]["bias"]
  batch, side, _, dim = x.shape
  x = x.reshape(batch, -1, dim)
  x = jnp.concatenate([jnp.tile(params["class"], (batch, 1, 1)), x], axis=1)
  x = x + positions(params["positions"], side)
  # A scan compiles one block, however many there are.
  x, _ = lax.scan(lambda x, p: (_block(p, x), None), x, params["blocks"])
  return _normalize(params["norm"], x)


def positions(embedding: Array, side: int) -> Array:
  """Returns the embedding of the class and side x side patches, [1 + side², D].

  Args:
    embedding: [1 + M², D] embedding of the class and of the M x M patches that
      the network was trained with, which is resampled (torch's bicubic).
    side: number of patches to a side.
  """
  trained = grid_side(len(embedding) - 1)
  if trained == side:
    return embedding
  matrix = resize.bicubic_torch(trained, side, trained / (side + OFFSET))
  grid = embedding[1:].reshape(1, trained, trained, -1)
  grid = resize.resize(grid, matrix, matrix).reshape(side * side, -1)
  return jnp.concatenate([embedding[:1], grid])


def grid_side(patches: int) -> int:
  """Returns the side of a square grid of patches.

  Raises:
    ValueError: the number is not a square.
  """
  side = math.isqrt(max(patches, 0))
  if side * side != patches or not side:
    raise ValueError(f"{patches} patches, which do not form a square")
  return side


def _block(p: Params, x: Array) -> Array:
  """Applies attention and an MLP, each scaled and added to its input."""
  x = x + _attention(p, _normalize(p["norm1"], x)) * p["scale1"]
  hidden = _linear(p["fc1"], _normalize(p["norm2"], x))
  hidden = jax.nn.gelu(hidden, approximate=False)
  return x + _linear(p["fc2"], hidden) * p["scale2"]


def _attention(p: Params, x: Array) -> Array:
  batch, length, dim = x.shape
  qkv = _linear(p["qkv"], x).reshape(batch, length, 3, -1, HEAD)
  q, k, v = jnp.moveaxis(qkv, 2, 0)
  exact = lax.Precision.HIGHEST
  weights = jnp.einsum("bqhc,bkhc->bhqk", q, k, precision=exact)
  weights = jax.nn.softmax(weights * HEAD**-0.5, axis=-1)
  mixed = jnp.einsum("bhqk,bkhc->bqhc", weights, v, precision=exact)
  return _linear(p["proj"], mixed.reshape(batch, length, dim))


def _linear(p: Params, x: Array) -> Array:
  return jnp.dot(x, p["kernel"], precision=lax.Precision.HIGHEST) + p["bias"]


def _normalize(p: Params, x: Array) -> Array:
  x = x - x.mean(axis=-1, keepdims=True)
  x = x * lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + EPS)
  return x * p["scale"] + p["bias"]


@dataclasses.dataclass(frozen=True, eq=False)
class Dinov2Extractor:
  """The features of the class token.

  Attributes:
    params: the network's parameters, as `dinov2_weights.params` returns them.
    name: the convention of the resizing, one of `NAMES`; also the key of its
      scores in reports.
  """

  params: Params
  name: str = "dinov2"
  outputs = ("features",)

  @property
  def dim(self) -> int:
    """Returns the number of features: 1024 of ViT-L/14."""
    return self.params["class"].shape[-1]

  def apply(self, params: Params, images: Array) -> dict[str, Array]:
    """Computes `features` [B, dim] of uint8 images [B, H, W, C]."""
    return {"features": tokens(params, prepare(images, self.name))[:, 0]}
