"""A network whose parameters lie in shards, for code that runs per device.

Inside `jax.shard_map` a device holds its part of every large parameter and of
the batch. A layer gathers its weight where it uses it, in the type it computes
in; differentiated, that sums the gradient over the devices and scatters it.
Blocks that are rematerialised gather once more. Activations never leave their
device, so that nothing inside the network is ever resharded.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
from jax import Array, lax
from jax.sharding import PartitionSpec

from scm_jax.networks import magnitude


class Boxed(nn.meta.AxisMetadata):
  """A parameter in a box, which holds its `value` and what layers ask of it."""

  def replace_boxed(self, val: Any) -> "Boxed":
    """Returns the box with another value in it."""
    return self.replace(value=val)

  def add_axis(self, index: int, params: Any) -> "Boxed":
    """Returns the box; no network here is scanned over its parameters."""
    del index, params
    return self

  remove_axis = add_axis


@flax.struct.dataclass
class Shard(Boxed):
  """This device's part of a parameter.

  Linen unboxes it where a layer asks for the parameter, which gathers it there,
  in the type in which it is stored. Layers that compute in a narrower type may
  look for the shard themselves, and gather it in that type (`layers.Linear`).

  Attributes:
    value: the part.
    spec: how the whole is split.
    reduce_dtype: in which gradients are summed over the devices; "" is the
      type in which the weight is gathered.
  """

  value: Array
  spec: PartitionSpec = flax.struct.field(pytree_node=False)
  reduce_dtype: str = flax.struct.field(pytree_node=False, default="")

  def unbox(self) -> Array:
    """Returns the whole array, on every device."""
    return gather(self)


def gather(shard: Shard, dtype: Any = None) -> Array:
  """Gathers a whole array on every device.

  Args:
    shard: this device's part.
    dtype: the type to which it is cast before it is sent; None leaves it. The
      gradient comes back in this type, or in the shard's `reduce_dtype`.
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
  """Gathers a part along every axis of its spec."""
  for dimension, axis in enumerate(spec):
    if axis is not None:
      whole = lax.all_gather(whole, axis, axis=dimension, tiled=True)
  return whole


def gathered_as_computed(path: Any) -> bool:
  """Returns whether a layer gathers a parameter in the type it computes in.

  These are the weights of `layers.Linear` and `layers.Dense`, but for those of
  the time path, `emb...`, which computes in float32. All other layers gather a
  parameter in the type in which it is stored. The path is one of JAX's tree
  functions.
  """
  names = [part.key for part in path if hasattr(part, "key")]
  timed = any(name.startswith("emb") for name in names)
  return names[-1] == magnitude.WEIGHT and not timed


def on_shards(network: Any, specs: Any, reduce_dtype: str = "") -> Any:
  """Returns a `Network` whose functions take shards of its parameters.

  Args:
    network: the network, whose functions take whole parameters.
    specs: how the parameters are split, a tree of `PartitionSpec`s like them.
    reduce_dtype: the type in which gradients are summed over the devices; "" is
      the type in which a weight is gathered.
  """
  if not any(any(spec) for spec in jax.tree.leaves(specs)):
    return network

  def wrapped(part, params):
    """Returns a part's parameters as shards, for their layers to gather."""

    def leaf(value, spec):
      return Shard(value, spec, reduce_dtype) if any(spec) else value

    return {part: jax.tree.map(leaf, params[part], specs[part])}

  def F(params, x, t, cond, **kwargs):
    return network.F(wrapped("denoiser", params), x, t, cond, **kwargs)

  def w(params, *times):
    return network.w(wrapped("weighting", params), *times)

  return network._replace(F=F, w=w)
