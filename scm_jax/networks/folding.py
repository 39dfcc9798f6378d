"""Weights as a sampler's layers read them, computed once and not in each call.

A layer that scales and casts its weight does so in every evaluation: at batch 1
that moves as many bytes as the evaluation itself. Folded weights have their
scale, the type of the computation and the order of axes that the platform's
convolutions read. They serve sampling alone: training, averages and files keep
the parameters.
"""

from collections.abc import Callable
from typing import Any

import flax
import jax
from jax import Array

from scm_jax.networks.sharded import Boxed

# The order of a filter's axes for which a compiler adds no copy to a program,
# by platform; cuDNN's convolutions of NHWC arrays read OHWI.
AXES = {"gpu": "OHWI", "cuda": "OHWI"}
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
  is_folded = lambda leaf: isinstance(leaf, Folded)

  def ready(path, leaf):
    return leaf if is_folded(leaf) else fold(tuple(k.key for k in path), leaf)

  return jax.tree_util.tree_map_with_path(ready, params, is_leaf=is_folded)
