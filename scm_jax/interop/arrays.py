"""Numpy's arrays inside a pickle, by stand-ins for numpy's constructors."""

from typing import Any

import numpy as np

from scm_jax.interop import unpickling
from scm_jax.interop.unpickling import Refused

# Types of numbers that may occur, by numpy's names without byte order.
_TYPES = ("f2", "f4", "f8", "i4", "i8", "u1", "b1")


class Dtype:
  """`numpy.dtype(name, ...)`."""

  def __init__(self, name: Any, *rest: Any):
    del rest
    if name not in _TYPES:
      raise Refused(f"it has an array of type {str(name)[:20]!r}")
    self.dtype = np.dtype(name).newbyteorder("<")

  def __setstate__(self, state: Any) -> None:
    if not isinstance(state, tuple) or len(state) < 2 or state[1] == ">":
      raise Refused("an array is not little-endian")


class Array:
  """An array, whose contents come after it."""

  def __init__(self):
    self.value = np.zeros(0)

  def __setstate__(self, state: Any) -> None:
    _, shape, dtype, fortran, data = state
    self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
  if not isinstance(dtype, Dtype) or not isinstance(data, bytes | bytearray):
    raise Refused("an array is not made of bytes")
  return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
  array = Array()
  array.value = _array(data, dtype, shape, order)
  return array


def _scalar(dtype: Any, data: Any) -> float:
  return _array(data, dtype, (1,), "C")[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
  """`_codecs.encode`: how older pickles write bytes."""
  if not isinstance(text, str) or encoding != "latin1":
    raise Refused("it encodes something other than bytes")
  return text.encode("latin1")


_CONSTRUCTORS = {
  ("multiarray", "_reconstruct"): unpickling.call(lambda *args: Array()),
  ("multiarray", "scalar"): unpickling.call(_scalar),
  ("numeric", "_frombuffer"): unpickling.call(_from_buffer),
}
ARRAYS: unpickling.Table = {
  ("numpy", "ndarray"): unpickling.record_type("ndarray"),
  ("numpy", "dtype"): unpickling.call(Dtype),
  ("_codecs", "encode"): unpickling.call(_encode),
  **{
    (f"numpy.{core}.{module}", name): make  # numpy 1 and numpy 2
    for (module, name), make in _CONSTRUCTORS.items()
    for core in ("core", "_core")
  },
}
