"""What the published vision transformers have in common, as pure functions."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

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
