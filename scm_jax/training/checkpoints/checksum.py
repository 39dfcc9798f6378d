"""Computes checksums of weights, wherever their arrays lie."""

import zlib
from typing import Any

import jax
import numpy as np

from scm_jax.training import sharding


def of(params: Any, value: int = 0) -> int:
  """Returns the CRC-32 of all parameters' bytes.

  One array at a time is on the host. Where arrays span processes, all processes
  must call this. `value` is the checksum of what comes before the parameters.
  """
  for leaf in jax.tree.leaves(params):
    value = zlib.crc32(fetch(leaf).tobytes(), value)
  return value


def fetch(leaf: Any) -> np.ndarray:
  """Returns a whole array on the host.

  JAX keeps a fetched copy for as long as the array lives; a temporary array of
  the same content is fetched instead. An array on several processes' devices is
  first gathered on every device, so all must call this, in the same order.
  """
  if not isinstance(leaf, jax.Array):
    return np.asarray(leaf)
  if leaf.is_fully_addressable:
    return np.asarray(jax.device_put(leaf, leaf.sharding, may_alias=False))
  mesh: Any = getattr(leaf.sharding, "mesh", None)  # a run's arrays have one
  return np.asarray(sharding.replicate(leaf, mesh))
