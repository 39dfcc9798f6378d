"""Counts the convolutions and products of a traced program: FLOPs and bytes.

They are what a program must do at least: everything between two of them can be
computed while their results are on the chip.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from scm_jax.training import evaluations


class Cost(NamedTuple):
  """What the convolutions and products of a program cost.

  Attributes:
    flops: multiplications and additions, without those with padding.
    bytes: the bytes of all operands and results.
  """

  flops: float
  bytes: float


def cost(jaxpr: Any) -> Cost:
  """Returns what the products of a traced program cost, loops included."""
  flops, size = 0.0, 0.0
  for equation, times in evaluations.equations(jaxpr):
    if count := _COUNTS.get(equation.primitive.name):
      arrays = (*equation.invars, *equation.outvars)
      flops += times * count(equation)
      size += times * sum(v.aval.size * v.aval.dtype.itemsize for v in arrays)
  return Cost(flops, size)


def _product(equation: Any) -> float:
  """Returns the FLOPs of a product of matrices."""
  (contracted, _), _ = equation.params["dimension_numbers"]
  shape = equation.invars[0].aval.shape
  return (
    2.0
    * equation.outvars[0].aval.size
    * math.prod(shape[axis] for axis in contracted)
  )


def _convolution(equation: Any) -> float:
  """Returns the FLOPs of a convolution whose input is not dilated."""
  params = equation.params
  dimensions = params["dimension_numbers"]
  image, kernel = (v.aval.shape for v in equation.invars)
  result = equation.outvars[0].aval.shape
  taps = 1
  for i, axis in enumerate(dimensions.rhs_spec[2:]):
    positions = np.arange(result[dimensions.out_spec[2 + i]])
    first = positions * params["window_strides"][i] - params["padding"][i][0]
    steps = np.arange(kernel[axis]) * params["rhs_dilation"][i]
    read = first[:, None] + steps
    taps *= np.sum((read >= 0) & (read < image[dimensions.lhs_spec[2 + i]]))
  channels = kernel[dimensions.rhs_spec[0]] * kernel[dimensions.rhs_spec[1]]
  return 2.0 * image[dimensions.lhs_spec[0]] * float(taps) * channels


_COUNTS = {
  "conv_general_dilated": _convolution,
  "dot_general": _product,
}
