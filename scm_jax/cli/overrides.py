"""Sets single fields of a config from the command line, checked.

`ml_collections.config_flags` parses by the field's type, on absl flags made for
the one override, never on the process's global ones. Around it: the nearest
real name for a misspelt field, tuples of strings without quotes, and the types
of a tuple's elements, which config_flags leaves unchecked.
"""

import re
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from scm_jax import configuration, spelling
from scm_jax.errors import ConfigError


def apply(config: ConfigDict, flag: str, value: str | None, path: str) -> None:
  """Sets the field that a flag names, checked for name and type.

  Args:
    config: changed in place.
    flag: `--config.KEY`, or `--noconfig.KEY` for a bool.
    value: what followed the flag, if anything did.
    path: the config file, for messages.

  Raises:
    ConfigError: an unknown field, or a value that is not of its type.
  """
  key = flag.partition(".")[2]
  leaves = configuration.flatten(config)
  if key not in leaves:
    raise ConfigError(_unknown_field(key, leaves, path))
  old, kind = leaves[key], config_path.get_type(key, config)
  value = _value_text(flag, value, old, kind)
  word = f"--config.{key}={value}"
  kind_text = configuration.article(kind.__name__)
  wrong = f"{word}: {key!r} in {path} is {kind_text}, now {old!r}"
  if kind not in (bool, int, float, str, tuple):
    raise ConfigError(f"{wrong}; flags set numbers, strings, bools and tuples")
  own = flags.FlagValues()
  try:
    # Defines a typed flag for the field; parsing it sets the field of `config`.
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=own, sys_argv=["", word]
    )
    own(["", word])
  except flags.Error:
    raise ConfigError(wrong) from None
  if isinstance(old, tuple) and len({type(item) for item in old}) == 1:
    config_path.set_value(
      key, config, _like(config_path.get_value(key, config), old[0], wrong)
    )


def _value_text(flag: str, value: str | None, old: Any, kind: type) -> str:
  """What stands behind the `=`, in the form that config_flags reads."""
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
  """`values` as a tuple of what `example` is; an int may stand for a float."""
  kind = type(example)
  if kind is float:
    values = tuple(float(v) if type(v) is int else v for v in values)
  if any(type(v) is not kind for v in values):
    raise ConfigError(f"{wrong}, of {kind.__name__}")
  return values


def _unknown_field(key: str, leaves: dict[str, Any], path: str) -> str:
  """The line about a field that does not exist, with the nearest that does."""
  inside = [leaf for leaf in leaves if leaf.startswith(f"{key}.")]
  if inside:
    return f"{key!r} in {path} is a group; set one of {', '.join(inside)}"
  # The right name in the wrong place (lr for optimizer.lr) beats spelling.
  name = key.rpartition(".")[2]
  namesakes = [leaf for leaf in leaves if leaf.rpartition(".")[2] == name]
  near = (
    spelling.nearest(key, namesakes or leaves)
    or next(iter(namesakes), None)
    or spelling.nearest(name, leaves)
  )
  if near:
    return f"no field {key!r} in {path}; did you mean {near!r}?"
  groups = dict.fromkeys(leaf.partition(".")[0] for leaf in leaves)
  return f"no field {key!r} in {path}; it has {', '.join(groups)}"
