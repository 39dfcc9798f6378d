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
  """Makes `nn.Dropout` draw the mask of sample `i` from `keys[i]`, within it.

  Args:
    keys: a random key for each sample `[B]`, or one key that is split for
      them; None where there is no dropout.
    batch: the number of samples, `B`.
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
  """Returns `x` `[B, ...]` with entries zeroed and the others scaled up."""

  def kept(key: Array) -> Array:
    key = jax.random.fold_in(key, name)
    return jax.random.bernoulli(key, 1 - rate, x.shape[1:])

  return jnp.where(jax.vmap(kept)(keys), x / (1 - rate), jnp.zeros_like(x))
