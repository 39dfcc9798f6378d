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

# Maps (module, name) to the stand-in.
Table = Mapping[tuple[str, str], Any]


class Refused(ValueError):
  """An error: a file's content is not admitted; its message is one line."""


class Record:
  """An instance of a foreign class: its name and its state, no behaviour.

  Attributes:
    class_name: the class's name in the file.
    state: the instance's attributes by name.
  """

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


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
  """A function of ours that stands in for a foreign one and cannot be changed.

  Attributes:
    function: the function that is called.
  """

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
  """Returns an instance's attributes, in either form that pickles have.

  Args:
    state: the attributes as a dict, or a pair of them and the slots.

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
  """Reads the next pickle of a file.

  Args:
    file: the stream, which is read from its position to the pickle's end.
    table: the names that the pickle may use.
    persistent: returns the object outside the pickle that an id refers to.

  Raises:
    Refused: the pickle uses a name that is not in `table`.
    Exception: the pickle is damaged. Any kind is possible, because a damaged
      pickle calls stand-ins in ways that the original would not; see
      `errors.reading`.
  """
  return _Unpickler(file, table, persistent).load()


# The implementation in C keeps its memo in an array, and one damaged byte in an
# index makes it allocate up to 64 GB; that in Python keeps a dict.
class _Unpickler(pickle._Unpickler):
  def __init__(self, file, table, persistent):
    super().__init__(file)
    self._table, self._persistent = table, persistent

  def find_class(self, module_name: str, global_name: str) -> Any:
    key = (module_name, global_name)
    if key not in self._table:
      raise Refused(
        f"it names {module_name}.{global_name}, which is not admitted; "
        "nothing in it was executed"
      )
    return self._table[key]

  def persistent_load(self, pid: Any) -> Any:
    if self._persistent is None:
      raise Refused("it refers to objects outside itself")
    return self._persistent(pid)
