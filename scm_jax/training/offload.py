"""What rests in the host's memory between steps: `config.offload`.

A step reads and writes the averages and the moments once, at its end; while the
network's passes need the most memory, both only lie there. In the host's pinned
memory they leave that room, for the time that the copies take: bytes over the
rate of PCIe (about 25 GB/s a GPU), twice a step.
"""

import dataclasses
from typing import Any

import jax

HOST = "pinned_host"
# What `config.offload` calls it, and the field of the state.
GROUPS = {"averages": "ema", "moments": "opt_state"}


def placed(config: Any, state: Any) -> Any:
  """The state's shapes, with the groups of `config.offload` on the host.

  Args:
    config: the run's config.
    state: of shapes, types and shardings. Scalars stay where they are.
  """

  def rest(leaf):
    if not leaf.ndim:
      return leaf
    where = leaf.sharding.with_memory_kind(HOST)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

  fields = [GROUPS[group] for group in config.offload]
  return dataclasses.replace(
    state, **{name: jax.tree.map(rest, getattr(state, name)) for name in fields}
  )


def fetch(tree: Any, like: Any = None) -> Any:
  """The arrays in their devices' memory, where computations read them.

  Args:
    tree: of arrays, or of a jitted function's arguments.
    like: arrays or shapes with the shardings; None is `tree` itself, which a
      jitted function's arguments do not know.
  """

  def there(leaf, like):
    if not on_host(like):
      return leaf
    return jax.device_put(leaf, like.sharding.with_memory_kind("device"))

  return jax.tree.map(there, tree, tree if like is None else like)


def on_host(leaf: Any) -> bool:
  """Whether an array, or a shape with a sharding, rests on the host."""
  return leaf.sharding.memory_kind == HOST
