"""Weights as a sampler's layers read them, computed once and not in each call.

A layer that scales and casts its weight does so in every evaluation: at batch 1
that moves as many bytes as the evaluation itself. Folded weights have their
scale, the type of the computation and the order of axes that the platform's
convolutions read. They serve sampling alone: training, averages and files keep
the parameters.

At batch 1 an evaluation is many small kernels of a GPU. There, layers that read
the same vector are joined into one product. Elsewhere samples stay the same to
the bit.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from scm_jax.networks.sharded import Boxed

GPUS = ("gpu", "cuda")  # the names that JAX has for this platform
# The order of a filter's axes for which a compiler adds no copy to a program,
# by platform; cuDNN's convolutions of NHWC arrays read OHWI.
AXES = dict.fromkeys(GPUS, "OHWI")
PLAIN = "HWIO"


@flax.struct.dataclass
class Folded(Boxed):
  """A weight that its layer uses as it is.

  Attributes:
    value: the weight.
    axes: the order of its axes, `HWIO` or `OHWI`.
  """

  value: Array
  axes: str = flax.struct.field(pytree_node=False, default=PLAIN)

  def unbox(self) -> Array:
    """Returns the weight."""
    return self.value


@flax.struct.dataclass
class Joined(Boxed):
  """The weights of layers of one width that read the same vector.

  Attributes:
    value: the layers' filters, one layer after another, as rows `[layers * out,
      in]`, which a product with a single vector reads in order.
    names: the layers, in this order.
  """

  value: Array
  names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())

  def unbox(self) -> Array:
    """Returns the rows."""
    return self.value

  def apply(self, x: Array) -> Array:
    """Maps `[B, in]` to what each layer gives, `[B, layers, out]`."""
    return (x @ self.value.T).reshape(len(x), len(self.names), -1)


def joined(weights: Mapping[str, Folded]) -> dict[str, Joined]:
  """Joins the weights `[in, out]` of named layers, by their width `out`."""
  widths: dict[str, list[str]] = {}
  for name, weight in weights.items():
    widths.setdefault(str(weight.value.shape[-1]), []).append(name)
  rows = lambda names: jnp.concatenate([weights[n].value.T for n in names])
  return {w: Joined(rows(names), tuple(names)) for w, names in widths.items()}


def ordered(weight: Array, platform: str) -> Folded:
  """Returns a weight `[..., in, out]` in the order that a platform reads.

  The platform has the name that JAX's devices give it.
  """
  axes = AXES.get(platform, PLAIN)
  if weight.ndim != len(PLAIN) or weight.shape[:2] == (1, 1):
    axes = PLAIN  # a product of matrices reads any order
  order = [PLAIN.index(axis) for axis in axes]
  return Folded(weight if axes == PLAIN else weight.transpose(order), axes)


def folded(
  params: Any, fold: Callable[[tuple[str, ...], Array], Array | Folded]
) -> Any:
  """Returns parameters, each of which `fold(path, leaf)` made ready.

  Those that are folded already stay as they are.
  """
  is_folded = lambda leaf: isinstance(leaf, Folded | Joined)

  def ready(path, leaf):
    return leaf if is_folded(leaf) else fold(tuple(k.key for k in path), leaf)

  return jax.tree_util.tree_map_with_path(ready, params, is_leaf=is_folded)
