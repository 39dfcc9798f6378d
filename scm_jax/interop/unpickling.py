"""Reads pickles without executing anything that they say.

A pickle is a program: it names functions and has them called. Here a name is
looked up in a table of inert stand-ins of ours and nowhere else, so the worst
that a file can do is to be refused. Stand-ins are made anew for each reading,
because a pickle may also set attributes of what it names.
"""

import dataclasses
import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

# (module, name) -> the stand-in, made anew for each reading.
Table = Mapping[tuple[str, str], Callable[[], Any]]


class Refused(Exception):
  """A pickle is damaged, or names what is not admitted; one line says what."""


class Record:
  """An instance of a class of theirs: its name and its state, no behaviour.

  Attributes:
    class_name: what the file calls it.
    state: attributes by name.
  """

  class_name = ""

  state: dict[str, Any]

  def __new__(cls, *args: Any, **kwargs: Any):
    del args, kwargs  # theirs
    record = super().__new__(cls)
    record.state = {}
    return record

  def __setstate__(self, state: Any) -> None:
    self.state = as_state(state)


class Dict(dict):
  """A mapping of theirs; what it has beside its items is dropped."""

  def __setstate__(self, state: Any) -> None:
    del state


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
  """A function of theirs, of which ours is called; has no settable part."""

  function: Callable[..., Any]

  def __call__(self, *args: Any) -> Any:
    return self.function(*args)

  def __setstate__(self, state: Any) -> None:
    raise Refused("it changes a function")


def record_type(name: str) -> Callable[[], type[Record]]:
  """Makes stand-ins for the class `name`."""
  return lambda: type(name, (Record,), {"class_name": name})


def dict_type() -> type[Dict]:
  """Makes a stand-in for a kind of dict."""
  return type("Dict", (Dict,), {})


def call(function: Callable[..., Any]) -> Callable[[], Call]:
  """Makes stand-ins for a function."""
  return lambda: Call(function)


def as_state(state: Any) -> dict[str, Any]:
  """Attributes, in either form that pickles have.

  Raises:
    Refused: in neither.
  """
  if isinstance(state, tuple) and len(state) == 2:  # (__dict__, slots)
    state = (state[0] or {}) | (state[1] or {})
  state = {} if state is None else state
  if not isinstance(state, dict) or not all(isinstance(k, str) for k in state):
    raise Refused("an object's state is no set of attributes")
  return dict(state)


def load(
  file: BinaryIO,
  table: Table,
  persistent: Callable[[Any], Any] | None = None,
) -> Any:
  """The next pickle of a file.

  Args:
    file: read from where it stands to the pickle's end.
    table: what may be named.
    persistent: gives the objects that the pickle refers to and does not hold.

  Raises:
    Refused: it is damaged, or asks for anything else.
  """
  try:
    return _Unpickler(file, table, persistent).load()
  except Refused:
    raise
  except (EOFError, pickle.UnpicklingError, MemoryError) as error:
    raise Refused(f"it is damaged or cut short ({_one_line(error)})") from error
  except Exception as error:  # stand-ins called in ways that theirs are not
    raise Refused(f"it is damaged ({_one_line(error)})") from error


class _Unpickler(pickle.Unpickler):
  def __init__(self, file, table, persistent):
    super().__init__(file)
    self._table, self._persistent, self._made = table, persistent, {}

  def find_class(self, module_name: str, global_name: str) -> Any:
    key = (module_name, global_name)
    if key not in self._table:
      raise Refused(f"it names {module_name}.{global_name}")
    if key not in self._made:
      self._made[key] = self._table[key]()
    return self._made[key]

  def persistent_load(self, pid: Any) -> Any:
    if self._persistent is None:
      raise Refused("it refers to objects outside itself")
    return self._persistent(pid)


def _one_line(error: BaseException) -> str:
  text = " ".join(str(error).split())
  return f"{type(error).__name__}: {text[:100]}" if text else "no end"
