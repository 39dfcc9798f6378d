"""Keeps parts of the train state in the host's memory: `config.offload`.

A step reads and writes the EMAs and the optimiser's moments once, at its end;
they are not used while the network's passes need the most memory. Kept in the
host's pinned memory, they free that much of the device's memory. The price is
the time to copy them twice a step, over PCIe at about 25 GB/s a GPU.
"""

import dataclasses
from typing import Any

import jax

from scm_jax.defaults import Run

HOST = "pinned_host"
# The fields of the train state by their names in `config.offload`.
GROUPS = {"averages": "ema", "moments": "opt_state"}


def placed(config: Run, state: Any) -> Any:
  """Returns the abstract state with the groups of `config.offload` on the host.

  It is shapes, types and shardings. Scalars stay on the device.
  """

  def rest(leaf):
    if not leaf.ndim:
      return leaf
    where = leaf.sharding.with_memory_kind(HOST)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

  fields = {
    GROUPS[group]: jax.tree.map(rest, getattr(state, GROUPS[group]))
    for group in config.offload
  }
  if "moments" in config.offload:
    fields["extra"] = {
      name: extra.replace(opt_state=jax.tree.map(rest, extra.opt_state))
      for name, extra in state.extra.items()
    }
  return dataclasses.replace(state, **fields)


def fetch(tree: Any, like: Any = None) -> Any:
  """Copies arrays from the host's memory to their devices' memory.

  Args:
    tree: a tree of arrays, or of arguments inside a jitted function.
    like: a tree of arrays or shapes that tells the shardings, which arguments
      inside a jitted function do not know; None is `tree` itself.
  """

  def there(leaf, like):
    if not on_host(like):
      return leaf
    return jax.device_put(leaf, like.sharding.with_memory_kind("device"))

  return jax.tree.map(there, tree, tree if like is None else like)


def on_host(leaf: Any) -> bool:
  """Returns whether an array or shape lies in the host's memory."""
  return leaf.sharding.memory_kind == HOST
