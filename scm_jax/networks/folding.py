"""Weights as a sampler's layers read them, computed once and not in each call.

A layer that scales and casts its weight does so in every evaluation: at batch 1
that moves as many bytes as the evaluation itself. Folded weights have their
scale, the type of the computation and the order of axes that the platform's
convolutions read. They serve sampling alone: training, averages and files keep
the parameters.

At batch 1 an evaluation is many small kernels of a GPU. There, layers that read
the same vector are joined into one product, and convolutions of few positions
are products, too. Elsewhere samples stay the same to the bit.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array, lax

from scm_jax.networks.sharded import Boxed

GPUS = ("gpu", "cuda")  # the names that JAX has for this platform
# The order of a filter's axes for which a compiler adds no copy to a program,
# by platform; cuDNN's convolutions of NHWC arrays read OHWI.
AXES = dict.fromkeys(GPUS, "OHWI")
PLAIN = "HWIO"
# The order of a filter that `by_product` reads.
ROWS = "HWOI"
# The positions up to which it was clearly faster on an H200, at 896 channels
# and more; docs/accelerators.md has the times.
POSITIONS = 256


@flax.struct.dataclass
class Folded(Boxed):
  """A weight that its layer uses as it is.

  Attributes:
    value: the weight.
    axes: the order of its axes: `HWIO`, `OHWI` or `HWOI`.
  """

  value: Array
  axes: str = flax.struct.field(pytree_node=False, default=PLAIN)

  def unbox(self) -> Array:
    """Returns the weight."""
    return self.value


def suits_product(positions: int, channels: int) -> bool:
  """Returns whether a GPU convolves sooner by one product than by cuDNN.

  A convolution of few positions has too few outputs for all of a GPU's cores,
  while its filter is large. A product of the positions and all nine places of
  the filter has nine times as many. These are written and read again, so that
  they should not be larger than the filter.

  Args:
    positions: of the images of a batch together.
    channels: of the input.
  """
  return positions <= min(POSITIONS, channels)


def convolved(x: Array, w: Array, axes: str) -> Array:
  """Convolves `[B, H, W, C]` with a filter of this order of axes."""
  positions, channels = math.prod(x.shape[:-1]), x.shape[-1]
  if axes == ROWS and suits_product(positions, channels):
    return by_product(x, w)
  return lax.conv_general_dilated(
    x, w, (1, 1), "SAME", dimension_numbers=("NHWC", axes, "NHWC")
  )


def by_product(x: Array, w: Array) -> Array:
  """Convolves `[B, H, W, C]` with a filter HWOI of odd sides by one product.

  Each place of the filter has a result, of the type of `x`; these are shifted
  and added in float32.
  """
  (height, width), (rows, columns) = x.shape[1:3], w.shape[:2]
  results = jnp.einsum("bhwc,ijoc->bhwijo", x, w)
  around = [(0, 0), *((side // 2, side // 2) for side in (rows, columns))]
  results = jnp.pad(results, around + [(0, 0)] * 3)
  shifted = [
    results[:, i : i + height, j : j + width, i, j].astype(jnp.float32)
    for i in range(rows)
    for j in range(columns)
  ]
  total = functools.reduce(jnp.add, shifted).astype(x.dtype)
  # Without it XLA adds again in each kernel that reads the sum.
  return lax.optimization_barrier(total)


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


def ordered(weight: Array, platform: str, positions: int) -> Folded:
  """Returns a weight `[..., in, out]` in the order that a platform reads.

  The platform has the name that JAX's devices give it. `positions` are those of
  the images of a batch together, where the layer convolves.
  """
  axes = AXES.get(platform, PLAIN)
  if axes != PLAIN and suits_product(positions, weight.shape[-2]):
    axes = ROWS
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
