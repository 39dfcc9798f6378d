"""A number that tells weights apart, and is the same wherever they lie."""

import zlib
from typing import Any

import jax
import numpy as np

from scm_jax.training import sharding


def of(params: Any, value: int = 0) -> int:
  """A checksum of all parameters' bytes, wherever they lie.

  One array at a time is on the host. Where arrays span processes, all of them
  must take part.

  Args:
    params: a tree of arrays.
    value: checksum of what comes before them.
  """
  for leaf in jax.tree.leaves(params):
    value = zlib.crc32(fetch(leaf).tobytes(), value)
  return value


def fetch(leaf: Any) -> np.ndarray:
  """One array on the host, whole.

  JAX keeps what it fetches for as long as the array lives, so that another one
  is fetched, with the same content. From several processes' devices the array
  is gathered on every device first: all must call this, in the same order.
  """
  if not isinstance(leaf, jax.Array):
    return np.asarray(leaf)
  if leaf.is_fully_addressable:
    return np.asarray(jax.device_put(leaf, leaf.sharding, may_alias=False))
  mesh: Any = getattr(leaf.sharding, "mesh", None)  # a run's arrays have one
  return np.asarray(sharding.replicate(leaf, mesh))
