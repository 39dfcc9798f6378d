"""Dropout by samples: a sample's mask is a function of its own key.

Linen draws one mask for a whole batch, which then depends on how the batch is
cut into microbatches and devices. Here every sample brings a key, and each
layer folds its own name into it.
"""

import contextlib
import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


def per_sample(
  keys: Array | None, batch: int
) -> contextlib.AbstractContextManager:
  """Within it, `nn.Dropout` draws the mask of sample `i` from `keys[i]`.

  Args:
    keys: one for each sample `[B]`, or one that is split for them; None where
      nothing drops.
    batch: `B`.
  """
  if keys is None:
    return contextlib.nullcontext()
  if not keys.ndim:
    keys = jax.random.split(keys, batch)

  def interceptor(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    layer = context.module
    if not isinstance(layer, nn.Dropout) or context.method_name != "__call__":
      return call(*args, **kwargs)
    [x] = args
    if layer.deterministic or not layer.rate:
      return x
    name = zlib.crc32("/".join(layer.path).encode())
    return _drop(x, keys, name, layer.rate)

  return nn.intercept_methods(interceptor)


def _drop(x: Array, keys: Array, name: int, rate: float) -> Array:
  """`x` `[B, ...]` with entries zeroed, the others scaled up to make up."""

  def kept(key: Array) -> Array:
    key = jax.random.fold_in(key, name)
    return jax.random.bernoulli(key, 1 - rate, x.shape[1:])

  return jnp.where(jax.vmap(kept)(keys), x / (1 - rate), jnp.zeros_like(x))
