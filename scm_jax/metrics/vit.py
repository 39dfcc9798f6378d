"""What the published vision transformers have in common, as pure functions."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from scm_jax.interop.state_dict import Misfit, Tensors, take

HEAD = 64  # channels of an attention head

Params = dict[str, Any]


def patches(kernel: Array, x: Array) -> Array:
  """Returns a vector for each patch of images, [B, h, w, D].

  The filters [P, P, 3, D] are applied to patches that do not overlap.
  """
  return lax.conv_general_dilated(
    x,
    kernel,
    kernel.shape[:2],
    "VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=lax.Precision.HIGHEST,
  )


def prepend(first: Array, x: Array) -> Array:
  """Puts a class token [D] before the patches [B, h, w, D]: [B, 1 + h w, D]."""
  batch, *_, dim = x.shape
  x = x.reshape(batch, -1, dim)
  return jnp.concatenate([jnp.tile(first, (batch, 1, 1)), x], axis=1)


def attention(p: Params, x: Array) -> Array:
  """Applies self-attention to tokens [B, N, D].

  The parameters are `qkv`, of query, key and value in this order, and `proj`.
  """
  batch, length, dim = x.shape
  qkv = linear(p["qkv"], x).reshape(batch, length, 3, -1, HEAD)
  q, k, v = jnp.moveaxis(qkv, 2, 0)
  exact = lax.Precision.HIGHEST
  weights = jnp.einsum("bqhc,bkhc->bhqk", q, k, precision=exact)
  weights = jax.nn.softmax(weights * HEAD**-0.5, axis=-1)
  mixed = jnp.einsum("bhqk,bkhc->bqhc", weights, v, precision=exact)
  return linear(p["proj"], mixed.reshape(batch, length, dim))


def linear(p: Params, x: Array) -> Array:
  """Applies a `kernel` [D, F] and a `bias` [F] to the last axis."""
  return jnp.dot(x, p["kernel"], precision=lax.Precision.HIGHEST) + p["bias"]


def normalize(p: Params, x: Array, eps: float) -> Array:
  """Normalises the last axis; `eps` is added to the variance."""
  x = x - x.mean(axis=-1, keepdims=True)
  x = x * lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + eps)
  return x * p["scale"] + p["bias"]


class Reader:
  """Takes the layers of a transformer out of tensors by PyTorch's names.

  They are what the functions above take, from tokens of `width` channels: the
  `filters` of patches; the `positions` of the class and a square of patches,
  [1 + side * side, D], whose tensor may have other `axes` before; a `norm`; a
  dense layer, `linear`; the two of an `mlp`; and all `blocks` that a function
  reads by name, stacked [depth, ...]. What is `left` has not been taken. The
  methods raise Misfit for what is missing or of another shape.
  """

  def __init__(self, left: Tensors, width: int):
    if width % HEAD:
      raise Misfit(f"its width {width} is not a multiple of {HEAD}")
    self.left, self.width = left, width

  def filters(self, name: str, side: int) -> np.ndarray:
    found = take(self.left, name, (self.width, 3, side, side))
    return found.transpose(2, 3, 1, 0)

  def positions(self, name: str, *axes: int) -> np.ndarray:
    count = self.left.get(name, np.zeros((*axes, 0))).shape[len(axes)]
    found = take(self.left, name, (*axes, count, self.width))
    if count < 2 or math.isqrt(count - 1) ** 2 != count - 1:
      raise Misfit(
        f"its {name} has {count - 1} patches, which do not form a square"
      )
    return found.reshape(count, self.width)

  def vector(self, name: str) -> np.ndarray:
    return take(self.left, name, (self.width,))

  def norm(self, name: str) -> Params:
    vector = self.vector
    return {"scale": vector(f"{name}.weight"), "bias": vector(f"{name}.bias")}

  def linear(self, name: str, features_in: int, features: int) -> Params:
    kernel = take(self.left, f"{name}.weight", (features, features_in)).T
    bias = take(self.left, f"{name}.bias", (features,))
    return {"kernel": kernel, "bias": bias}

  def mlp(self, name: str) -> Params:
    hidden = len(self.left.get(f"{name}.fc1.bias", ()))
    return {
      "fc1": self.linear(f"{name}.fc1", self.width, hidden),
      "fc2": self.linear(f"{name}.fc2", hidden, self.width),
    }

  def blocks(self, prefix: str, block: Callable[[str], Params]) -> Params:
    found = []
    while any(n.startswith(f"{prefix}.{len(found)}.") for n in self.left):
      found.append(block(f"{prefix}.{len(found)}"))
    if not found:
      raise Misfit(f"it has no {prefix}.0")
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)
