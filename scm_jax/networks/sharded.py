"""A network whose parameters lie in shards, for code that runs per device.

Inside `jax.shard_map` a device holds its part of every large parameter and of
the batch. A layer gathers its weight where it uses it, in the type it computes
in; differentiated, that sums the gradient over the devices and scatters it.
Blocks that are rematerialised gather once more. Activations never leave their
device, so that nothing inside the network is ever resharded.
"""

from typing import Any

import flax
import jax
from jax import Array, lax
from jax.sharding import PartitionSpec

from scm_jax.networks import magnitude


@flax.struct.dataclass
class Shard:
  """This device's part of a weight.

  Attributes:
    value: the part.
    spec: how the whole is split.
  """

  value: Array
  spec: PartitionSpec = flax.struct.field(pytree_node=False)


def gather(shard: Shard) -> Array:
  """The whole array, on every device."""
  whole = shard.value
  for dimension, axis in enumerate(shard.spec):
    if axis is not None:
      whole = lax.all_gather(whole, axis, axis=dimension, tiled=True)
  return whole


def on_shards(network: Any, specs: Any) -> Any:
  """A `Network` as functions of shards of its parameters.

  Args:
    network: the functions of whole parameters.
    specs: where they lie, a tree of `PartitionSpec`s like them.
  """
  if not any(any(spec) for spec in jax.tree.leaves(specs)):
    return network

  def wrapped(part, params):
    """Weights as shards, for their layers to gather; the rest whole."""

    def leaf(path, value, spec):
      shard = Shard(value, spec)
      if not any(spec):
        return value
      return shard if path[-1].key == magnitude.WEIGHT else gather(shard)

    return {
      part: jax.tree_util.tree_map_with_path(leaf, params[part], specs[part])
    }

  def F(params, x, t, cond, **kwargs):
    return network.F(wrapped("denoiser", params), x, t, cond, **kwargs)

  def w(params, t):
    return network.w(wrapped("weighting", params), t)

  return network._replace(F=F, w=w)
