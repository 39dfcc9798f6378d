"""Sets single fields of a config from the command line, and checks them.

`ml_collections.config_flags` parses a value by its field's type, as a flag that
is made for the one override. This module adds a suggestion for a misspelt
field, tuples of strings without quotes, and a check of a tuple's elements.
"""

import re
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags
from ml_collections.config_flags import config_path

from scm_jax import errors
from scm_jax.configuration import article, flatten
from scm_jax.errors import ConfigError

# Fields that decide the defaults of others when a config is made.
_CHOICES = {
  "run": "choose it by the config file's argument, --config=FILE:run=NAME",
  "network.family": "choose it in the config file, get_defaults(run, FAMILY)",
}


def apply(config: ConfigDict, flag: str, value: str | None, path: str) -> None:
  """Sets the field that a flag names, after checking its name and type.

  Args:
    config: the config, which is changed in place.
    flag: `--config.KEY`, or `--noconfig.KEY` for a bool.
    value: the text after the flag's `=`, None without one.
    path: the name of the config file, for messages.

  Raises:
    ConfigError: the field is unknown, or the value is not of its type.
  """
  key = flag.partition(".")[2]
  if key in _CHOICES:
    raise ConfigError(
      f"{flag}={value} comes too late: the config already has the defaults of "
      f"{config_path.get_value(key, config)!r}; {_CHOICES[key]}"
    )
  leaves = flatten(config)
  if key not in leaves:
    raise ConfigError(_unknown_field(key, leaves, path))
  old, kind = leaves[key], config_path.get_type(key, config)
  value = _value_text(flag, value, old, kind)
  word = f"--config.{key}={value}"
  where, kind_text = f"{word}: {key!r} in {path}", article(kind.__name__)
  if kind not in (bool, int, float, str, tuple):
    only = "flags can set numbers, strings, bools and tuples only"
    raise ConfigError(f"{where} is {kind_text}; {only}")
  wrong = f"{where} must be {kind_text}, as {old!r} is"
  own, name = flags.FlagValues(), key.rpartition(".")[2]
  # Of this field alone: absl writes out a flag's whole default, which is slow.
  alone = ConfigDict({name: config_dict.placeholder(kind)})
  argv = ["", f"--config.{name}={value}"]
  try:
    # Defines a typed flag for the field; parsing it sets the field of `alone`.
    config_flags.DEFINE_config_dict(
      "config", alone, flag_values=own, sys_argv=argv
    )
    own(argv)
  except flags.Error:
    raise ConfigError(wrong) from None
  config_path.set_value(key, config, alone[name])
  if isinstance(old, tuple) and len({type(item) for item in old}) == 1:
    values = _like(config_path.get_value(key, config), old[0], wrong)
    config_path.set_value(key, config, values)


def _value_text(flag: str, value: str | None, old: Any, kind: type) -> str:
  """Returns a flag's value in the form that config_flags reads."""
  if flag.startswith("--no"):
    if kind is not bool or value is not None:
      raise ConfigError(f"{flag}: write --{flag[4:]}=VALUE")
    return "false"
  if value is None:
    if kind is not bool:
      raise ConfigError(f"{flag} needs a value: {flag}=VALUE")
    return "true"
  strings = kind is tuple and old and all(isinstance(i, str) for i in old)
  if strings and not re.search(r"[\"'()\[\]]", value):
    return repr(tuple(filter(None, map(str.strip, value.split(",")))))
  return value


def _like(values: tuple[Any, ...], example: Any, wrong: str) -> tuple[Any, ...]:
  """Returns the values in the example's type; ints may stand for floats."""
  kind = type(example)
  if kind is float:
    values = tuple(float(v) if type(v) is int else v for v in values)
  if any(type(v) is not kind for v in values):
    raise ConfigError(f"{wrong}, with elements of type {kind.__name__}")
  return values


def _unknown_field(key: str, leaves: dict[str, Any], path: str) -> str:
  """Returns the message about an unknown field, with the nearest known one."""
  if inside := [leaf for leaf in leaves if leaf.startswith(f"{key}.")]:
    return f"{key!r} in {path} is a group of fields: {', '.join(inside)}"
  # The right name in the wrong group is more likely than a misspelling.
  name = key.rpartition(".")[2]
  namesakes = [leaf for leaf in leaves if leaf.rpartition(".")[2] == name]
  near = (
    errors.nearest(key, namesakes or leaves)
    or next(iter(namesakes), None)
    or errors.nearest(name, leaves)
  )
  if near:
    return f"there is no field {key!r} in {path}; did you mean {near!r}?"
  groups = dict.fromkeys(leaf.partition(".")[0] for leaf in leaves)
  return f"there is no field {key!r} in {path}; it has {', '.join(groups)}"
