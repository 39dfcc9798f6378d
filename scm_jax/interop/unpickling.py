"""An unpickler that executes nothing of what a pickle says.

A pickle is a program: it names functions and has them called. Here a name is
looked up in a table of inert stand-ins and nowhere else, so the worst that a
file can do is to be refused. A pickle may also set attributes of the objects
that it names, so every stand-in has a `__setstate__` that leaves it as it is.
"""

import dataclasses
import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

# Maps (module, name) to the stand-in.
Table = Mapping[tuple[str, str], Any]
# NumPy's names, without byte order, of the types that are admitted.
_DTYPES = ("f2", "f4", "f8", "i4", "i8", "u1", "b1")


class Refused(ValueError):
  """An error: a file's content is not admitted; its message is one line."""


class Record:
  """An instance of a foreign class: its name and its attributes by name."""

  class_name = ""
  state: dict[str, Any]

  def __new__(cls, *args: Any, **kwargs: Any):
    """Ignores the arguments, which are those of the foreign constructor."""
    del args, kwargs
    record = super().__new__(cls)
    record.state = {}
    return record

  def __setstate__(self, state: Any) -> None:
    self.state = as_state(state)


class Dict(dict):
  """A foreign mapping, of which only the items are kept."""

  def __setstate__(self, state: Any) -> None:
    del state


class Array:
  """The stand-in for `numpy.ndarray`; `value` is the array."""

  def __init__(self, value: np.ndarray | None = None):
    self.value = np.zeros(0) if value is None else value

  def __setstate__(self, state: Any) -> None:
    _, shape, dtype, fortran, data = state
    self.value = _array(data, dtype, shape, "F" if fortran else "C")


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
  """A function of ours that stands in for a foreign one and cannot change."""

  function: Callable[..., Any]

  def __call__(self, *args: Any) -> Any:
    """Calls the function."""
    return self.function(*args)

  def __setstate__(self, state: Any) -> None:
    raise Refused("it changes a function")


def record_type(name: str) -> type[Record]:
  """Returns the stand-in for the class `name`."""
  return type(name, (Record,), {"class_name": name})


def as_state(state: Any) -> dict[str, Any]:
  """Returns an instance's attributes, given as a dict or as a pair with slots.

  Raises:
    Refused: the state has another form.
  """
  if isinstance(state, tuple) and len(state) == 2:
    state = (state[0] or {}) | (state[1] or {})
  state = {} if state is None else state
  if not isinstance(state, dict) or not all(isinstance(k, str) for k in state):
    raise Refused("an object's state is not a dict of attributes")
  return dict(state)


def load(
  file: BinaryIO,
  table: Table,
  persistent: Callable[[Any], Any] | None = None,
) -> Any:
  """Reads the next pickle of a file, from its position to the pickle's end.

  It may use the names in the table. `persistent` returns the object outside the
  pickle that an id refers to.

  Raises:
    Refused: the pickle uses another name.
    Exception: the pickle is damaged. Any kind is possible, because stand-ins
      are called in ways that the original would not; see `errors.reading`.
  """
  return _Unpickler(file, table, persistent).load()


# The implementation in C keeps its memo in an array, and one damaged byte in an
# index makes it allocate up to 64 GB; that in Python keeps a dict.
class _Unpickler(pickle._Unpickler):
  def __init__(self, file, table, persistent):
    super().__init__(file)
    self._table, self._persistent = table, persistent

  def find_class(self, module: str, name: str) -> Any:
    key = (module, name)
    if key not in self._table:
      raise Refused(
        f"it names {module}.{name}, which is not admitted; "
        "nothing in it was executed"
      )
    return self._table[key]

  def persistent_load(self, pid: Any) -> Any:
    if self._persistent is None:
      raise Refused("it refers to objects outside itself")
    return self._persistent(pid)


class _Dtype:
  """The stand-in for `numpy.dtype`; `dtype` is the type of numbers."""

  def __init__(self, name: Any, *rest: Any):
    del rest
    if name not in _DTYPES:
      raise Refused(f"it has an array of type {str(name)[:20]!r}")
    self.dtype = np.dtype(name).newbyteorder("<")

  def __setstate__(self, state: Any) -> None:
    if not isinstance(state, tuple) or len(state) < 2 or state[1] == ">":
      raise Refused("an array is not little-endian")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
  if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
    raise Refused("an array is not made of bytes")
  return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _encode(text: Any, encoding: Any) -> bytes:
  """Stands in for `_codecs.encode`, by which older pickles write bytes."""
  if not isinstance(text, str) or encoding != "latin1":
    raise Refused("it encodes something other than bytes")
  return text.encode("latin1")


_CONSTRUCTORS = {
  ("multiarray", "_reconstruct"): Call(lambda *_: Array()),
  ("multiarray", "scalar"): Call(lambda t, s: _array(s, t, 1, "C")[0].item()),
  ("numeric", "_frombuffer"): Call(lambda *args: Array(_array(*args))),
}
# What arrays in a pickle name.
ARRAYS: Table = {
  ("numpy", "ndarray"): record_type("ndarray"),
  ("numpy", "dtype"): Call(_Dtype),
  ("_codecs", "encode"): Call(_encode),
  **{
    (f"numpy.{core}.{module}", name): call  # of NumPy 1 and of NumPy 2
    for (module, name), call in _CONSTRUCTORS.items()
    for core in ("core", "_core")
  },
}
