"""Options as frozen dataclasses: their fields, defaults and allowed values.

A dataclass says all of a group of options: a field's type `Literal[...]` lists
what it may be, and its default is the config's. The config's defaults, the
checks of a run and the command line read them here, so that no list of values
is written twice.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from scm_jax import errors
from scm_jax.errors import ConfigError

_T = TypeVar("_T")
_FIXED = {"config": False}


def fixed(default: Any = dataclasses.MISSING) -> Any:
  """Declares a dataclass field that is no option of the config's group.

  It follows from another group (the network's resolution is the data's), or
  nobody has to choose it.
  """
  return dataclasses.field(default=default, metadata=_FIXED)


def options(kind: type) -> dict[str, Any]:
  """Returns the options of a dataclass and their defaults, in order.

  Raises:
    ConfigError: an option has no default.
  """
  found = {
    field.name: field.default
    for field in dataclasses.fields(kind)
    if field.metadata.get("config", True)
  }
  for name, default in found.items():
    if default is dataclasses.MISSING:
      raise ConfigError(f"{kind.__name__}.{name} has no default; give it one")
  return found


def choices(kind: type) -> dict[str, tuple[Any, ...]]:
  """Returns the allowed values of every field whose type is a `Literal`."""
  hints = typing.get_type_hints(kind)
  return {
    field.name: typing.get_args(hints[field.name])
    for field in dataclasses.fields(kind)
    if typing.get_origin(hints[field.name]) is typing.Literal
  }


class Checked:
  """A dataclass of options, which checks itself; the base of all of them."""

  def __post_init__(self) -> None:
    """Raises ConfigError unless every field has a possible value.

    That is one of its values for a `Literal`, a number for numbers, and a tuple
    of what its type says.
    """
    hints = typing.get_type_hints(type(self))
    for name, allowed in choices(type(self)).items():
      pick(dict.fromkeys(allowed), getattr(self, name), name)
    for name, default in options(type(self)).items():
      value = getattr(self, name)
      if value is None and default is not None:
        raise ConfigError(f"{name} is None; give a value, such as {default!r}")
      entries = value if isinstance(value, tuple) else (value,)
      if any(math.isnan(x) for x in entries if isinstance(x, float)):
        raise ConfigError(f"{name} is {value}; give a number")
      hint = hints[name]
      if typing.get_origin(hint) is tuple and not _fits(value, hint):
        raise ConfigError(f"{name} is {value!r}; its type is {hint}")


def _fits(value: Any, hint: Any) -> bool:
  """Returns whether a value has a type, as far as options have such types."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin is types.UnionType:
    return any(_fits(value, each) for each in arguments)
  if origin is not tuple:
    kinds = {int: numbers.Integral, float: numbers.Real}
    return not isinstance(hint, type) or isinstance(
      value, kinds.get(hint, hint)
    )
  if not isinstance(value, tuple | list):
    return False
  if arguments[-1] is ...:
    arguments = arguments[:1] * len(value)
  return len(value) == len(arguments) and all(map(_fits, value, arguments))


def pick(table: Mapping[Any, _T], name: object, field: str) -> _T:
  """Returns the entry of a table that an option names.

  Args:
    table: what there is to choose from, by name.
    name: the option's value.
    field: the option's name, for the message.

  Raises:
    ConfigError: the table has no such entry.
  """
  if name not in table:
    near = errors.hint(str(name), list(map(str, table)), "choose one of")
    raise ConfigError(f"{field} is {name!r}; {near}")
  return table[name]


def check_interval(value: Any, field: str) -> None:
  """Raises ConfigError unless an option is two rising noise levels, or ()."""
  several = value if isinstance(value, tuple | list) else (value,)
  numbers = all(type(x) in (int, float) for x in several)
  if several and not (
    numbers and len(several) == 2 and 0 <= several[0] < several[1]
  ):
    raise ConfigError(
      f"{field} is {value!r}; give the lowest and the highest noise level, as "
      "(0.28, 2.9), or () for all"
    )


def check_channels(number: int, channels: int, field: str) -> None:
  """Raises ConfigError unless the data have so many channels; 0 is all."""
  if not 0 <= number <= channels:
    raise ConfigError(
      f"{field} is {number}, but the data have {channels} channels; 0 is all"
    )
