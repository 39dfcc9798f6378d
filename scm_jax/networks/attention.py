"""Softmax attention behind one function, by named implementations.

Each takes `q`, `k` and `v` `[B, L, heads, d]`, keeps logits and softmax in
float32 whatever the type of its inputs, and has a derivative in both modes:
sCM takes `jax.jvp` of the network and differentiates its value. (The fused
kernels that XLA and the vendors offer have no forward mode.)
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

CHUNK = 128  # most keys that `chunked` looks at at once


def attend(q: Array, k: Array, v: Array, implementation: str) -> Array:
  """Computes `softmax(q k^T / sqrt(d)) v`, `[B, L, heads, d]`, as `v`'s type.

  `implementation` is a name in `IMPLEMENTATIONS`.
  """
  return IMPLEMENTATIONS[implementation](q, k, v).astype(v.dtype)


def _logits(q: Array, k: Array) -> Array:
  """Computes the logits `[B, heads, L, keys]`, float32 or wider."""
  wide = jnp.promote_types(q.dtype, jnp.float32)
  scale = q.shape[-1] ** -0.5
  products = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=wide)
  return products * scale


def _einsum(q: Array, k: Array, v: Array) -> Array:
  """Computes attention with the whole matrix of weights at once."""
  weights = jax.nn.softmax(_logits(q, k), axis=-1).astype(v.dtype)
  return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def _chunked(q: Array, k: Array, v: Array) -> Array:
  """Computes attention by chunks of keys, without an `L x L` matrix.

  A running maximum keeps the sums finite. The tangent of this recurrence is
  that of the paper's Appendix F. The backward pass computes each chunk's
  weights again.
  """
  length = k.shape[1]
  size = max(n for n in range(1, CHUNK + 1) if length % n == 0)
  wide = jnp.promote_types(q.dtype, jnp.float32)

  def chunks(x):
    """Returns an array in chunks, `[L / size, B, size, heads, d]`."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

  def add(sums, chunk):
    values, total, largest = sums
    keys, chunk_values = chunk
    logits = _logits(q, keys)
    # The maximum cancels from the result, and so from its derivative.
    peak = lax.stop_gradient(jnp.maximum(largest, logits.max(-1)))
    shrink = jnp.exp(largest - peak)
    weights = jnp.exp(logits - peak[..., None])
    products = jnp.einsum(
      "bhqk,bkhd->bhqd",
      weights.astype(v.dtype),
      chunk_values,
      preferred_element_type=wide,
    )
    values = values * shrink[..., None] + products
    return (values, total * shrink + weights.sum(-1), peak), None

  batch, queries, heads, _ = q.shape
  shape = (batch, heads, queries)
  start = (
    jnp.zeros((*shape, v.shape[-1]), wide),
    jnp.zeros(shape, wide),
    jnp.full(shape, -jnp.inf, wide),
  )
  # Inside a scan nothing can be merged with the first computation.
  body = jax.checkpoint(add, prevent_cse=False)
  (values, total, _), _ = lax.scan(body, start, (chunks(k), chunks(v)))
  return jnp.moveaxis(values / total[..., None], 1, 2)


IMPLEMENTATIONS = {"einsum": _einsum, "chunked": _chunked}
