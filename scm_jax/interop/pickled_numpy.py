"""Stand-ins for NumPy's constructors, which read arrays inside a pickle."""

from typing import Any

import numpy as np

from scm_jax.interop import unpickling
from scm_jax.interop.unpickling import Call, Refused

# NumPy's names, without byte order, of the types that are admitted.
_TYPES = ("f2", "f4", "f8", "i4", "i8", "u1", "b1")


class Dtype:
  """The stand-in for `numpy.dtype`; `dtype` is the type of numbers."""

  def __init__(self, name: Any, *rest: Any):
    del rest
    if name not in _TYPES:
      raise Refused(f"it has an array of type {str(name)[:20]!r}")
    self.dtype = np.dtype(name).newbyteorder("<")

  def __setstate__(self, state: Any) -> None:
    if not isinstance(state, tuple) or len(state) < 2 or state[1] == ">":
      raise Refused("an array is not little-endian")


class Array:
  """The stand-in for `numpy.ndarray`; `value` is the array."""

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


def _empty(*args: Any) -> Array:
  del args
  return Array()


def _scalar(dtype: Any, data: Any) -> float:
  return _array(data, dtype, (1,), "C")[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
  """Stands in for `_codecs.encode`, by which older pickles write bytes."""
  if not isinstance(text, str) or encoding != "latin1":
    raise Refused("it encodes something other than bytes")
  return text.encode("latin1")


_CONSTRUCTORS = {
  ("multiarray", "_reconstruct"): Call(_empty),
  ("multiarray", "scalar"): Call(_scalar),
  ("numeric", "_frombuffer"): Call(_from_buffer),
}
ARRAYS: unpickling.Table = {
  ("numpy", "ndarray"): unpickling.record_type("ndarray"),
  ("numpy", "dtype"): Call(Dtype),
  ("_codecs", "encode"): Call(_encode),
  **{
    (f"numpy.{core}.{module}", name): call  # of NumPy 1 and of NumPy 2
    for (module, name), call in _CONSTRUCTORS.items()
    for core in ("core", "_core")
  },
}
