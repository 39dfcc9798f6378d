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
    reduce_dtype: in which gradients are summed over the devices; "" is the
      type in which the weight is gathered.
  """

  value: Array
  spec: PartitionSpec = flax.struct.field(pytree_node=False)
  reduce_dtype: str = flax.struct.field(pytree_node=False, default="")


def gather(shard: Shard, dtype: Any = None) -> Array:
  """The whole array, on every device.

  Args:
    shard: this device's part.
    dtype: to which it is cast before it is sent; None leaves it. The gradient
      comes back in this type, or in the shard's `reduce_dtype`.
  """
  send = lambda value: _gather(value.astype(dtype or value.dtype), shard.spec)
  if not shard.reduce_dtype:
    return send(shard.value)

  def scatter(_, gradient):
    gradient = gradient.astype(shard.reduce_dtype)
    [part] = jax.linear_transpose(
      lambda value: _gather(value, shard.spec),
      jax.ShapeDtypeStruct(shard.value.shape, gradient.dtype),
    )(gradient)
    return part.astype(shard.value.dtype)

  linear = jax.custom_derivatives.linear_call
  return linear(lambda _, value: send(value), scatter, (), shard.value)


def _gather(whole: Array, spec: PartitionSpec) -> Array:
  for dimension, axis in enumerate(spec):
    if axis is not None:
      whole = lax.all_gather(whole, axis, axis=dimension, tiled=True)
  return whole


def lazily_gathered(path: Any, leaf: Any) -> bool:
  """Returns whether a layer gathers a sharded leaf where it uses it.

  All other leaves are gathered whole before the first layer runs.

  Args:
    path: the leaf's path in the parameters, as JAX's tree functions give it.
    leaf: the leaf, or its shape and type.
  """
  del leaf  # today the name alone decides
  return path[-1].key == magnitude.WEIGHT


def on_shards(network: Any, specs: Any, reduce_dtype: str = "") -> Any:
  """A `Network` as functions of shards of its parameters.

  Args:
    network: the functions of whole parameters.
    specs: where they lie, a tree of `PartitionSpec`s like them.
    reduce_dtype: see `Shard`.
  """
  if not any(any(spec) for spec in jax.tree.leaves(specs)):
    return network

  def wrapped(part, params):
    """Weights as shards, for their layers to gather; the rest whole."""

    def leaf(path, value, spec):
      shard = Shard(value, spec, reduce_dtype)
      if not any(spec):
        return value
      return shard if lazily_gathered(path, value) else gather(shard)

    return {
      part: jax.tree_util.tree_map_with_path(leaf, params[part], specs[part])
    }

  def F(params, x, t, cond, **kwargs):
    return network.F(wrapped("denoiser", params), x, t, cond, **kwargs)

  def w(params, t):
    return network.w(wrapped("weighting", params), t)

  return network._replace(F=F, w=w)
