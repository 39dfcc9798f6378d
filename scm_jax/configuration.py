"""What config files and workdirs need: arguments, JSON, differences.

`configs/*.py` take one string, `get_config(arg)`, which `parse_arg` reads. A
workdir keeps its resolved config as JSON, written by `to_json`, read back
exactly by `from_json`; `diff` says in words how two configs differ. Imports no
jax, so that a config file loads in milliseconds.
"""

import json
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from scm_jax import errors
from scm_jax.errors import ConfigError, UserError

AnyConfig = ConfigDict | Mapping[str, Any]

# Fields in which two runs of the same training may differ: how long, how often
# and where they run, never what a step computes. A run may be continued with
# other values of these, and reports treat runs that differ only in these and in
# `seed` as repetitions. A group's name covers all of its fields. The teacher is
# compared by its weights or its config, not by its folder.
MAY_CHANGE = (
  "total_steps",
  "log_every",
  "checkpoint_every",
  "sample_every",
  "evaluate_every",
  "evaluate",
  "keep_checkpoints",
  "keep_every",
  "snapshot_every",
  "snapshot_at",
  "snapshot_dtype",
  "divergence_limit",
  "nonfinite",
  "objective.check_every",
  "objective.check_samples",
  "profile",
  "sample",
  "teacher",
  "guide",
  "start",
  "data.data_dir",
  "data.autoencoder",
  "mesh",
  "sharding",
  "memory_check",
  "offload",
  "microbatches",
  "images_per_pass",
  "network.remat",
  "watchdog",
)

_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def parse_arg(arg: str, /, **defaults: Any) -> types.SimpleNamespace:
  """Reads a config's argument, such as `run=scd,size=xxl,tiny`.

  Args:
    arg: comma-separated `key=value`; for a flag, `key` alone is `key=true`.
    **defaults: every key that is allowed, with the value it has when `arg`
      does not name it. The default gives the type: bool, int, float or str; a
      tuple lists the choices, of which the first is the default.

  Returns:
    A namespace with one typed attribute for each of `defaults`.

  Raises:
    ConfigError: for an unknown or repeated key or a value of the wrong kind,
      naming the nearest real one.
  """
  values = {
    key: default[0] if isinstance(default, tuple) else default
    for key, default in defaults.items()
  }
  seen = set()
  for item in filter(None, map(str.strip, arg.split(","))):
    key, equals, text = (part.strip() for part in item.partition("="))
    if key not in defaults:
      near = errors.hint(key, defaults)
      raise ConfigError(f"no argument {key!r} in {arg!r}; {near}")
    if key in seen:
      raise ConfigError(f"argument {key!r} is given twice in {arg!r}")
    seen.add(key)
    values[key] = _typed(key, text if equals else None, defaults[key])
  return types.SimpleNamespace(**values)


def _typed(key: str, text: str | None, default: Any) -> Any:
  """Returns an argument's value in the default's type; None is a bare key."""
  if isinstance(default, bool):
    if text is None:
      return True
    if text.lower() in _BOOLS:
      return _BOOLS[text.lower()]
    raise ConfigError(f"argument {key}={text}: give true or false")
  if text is None:
    raise ConfigError(f"argument {key!r} needs a value: {key}=...")
  if isinstance(default, tuple):
    choices = {str(choice): choice for choice in default}
    if text in choices:
      return choices[text]
    near = errors.hint(text, choices)
    raise ConfigError(f"argument {key}={text}: {near}")
  try:
    return type(default)(text)
  except ValueError:
    kind = type(default).__name__
    raise ConfigError(f"argument {key}={text}: not {article(kind)}") from None


def to_json(config: AnyConfig) -> str:
  """Returns a config as indented JSON with sorted keys.

  References are resolved; tuples become arrays. Infinities and NaNs are written
  as Python's `json` writes them (`Infinity`).

  Raises:
    ConfigError: a field has a value that JSON does not have.
  """
  return json.dumps(_plain(config), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
  """Returns the locked config that `to_json` wrote, with arrays as tuples.

  Raises:
    UserError: the text is not a JSON object (a truncated file, say).
  """
  try:
    value = json.loads(text)
  except json.JSONDecodeError as error:
    raise UserError(
      f"the config is not JSON: {error.msg} in line {error.lineno}"
    ) from None
  if not isinstance(value, dict):
    raise UserError("the config is not a JSON object")
  return ConfigDict(_tuples(value)).lock()


def complete(config: AnyConfig, defaults: AnyConfig) -> ConfigDict:
  """Returns the locked config with `defaults` for the fields that it lacks.

  Configs of older versions are read like this. The defaults of new fields do
  what was done before there were these fields.
  """
  return ConfigDict(_tuples(_merged(_plain(config), _plain(defaults)))).lock()


def _merged(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
  merged = defaults | values
  for key, default in defaults.items():
    if isinstance(default, dict) and isinstance(values.get(key), dict):
      merged[key] = _merged(values[key], default)
  return merged


def diff(a: AnyConfig, b: AnyConfig) -> list[str]:
  """Returns a line for each field that differs: `optimizer.lr: 0.01 -> 0.02`.

  Lists equal tuples and 1 equals 1.0, but True is not 1; NaN equals NaN.
  """
  old, new = flatten(a), flatten(b)
  return [
    f"{path}: {_shown(old, path)} -> {_shown(new, path)}"
    for path in sorted(old.keys() | new.keys())
    if _shown(old, path) != _shown(new, path)
    and not _same(old.get(path), new.get(path))
  ]


def may_change(field: str) -> bool:
  """Returns whether a dotted field is covered by `MAY_CHANGE`."""
  return any(field == f or field.startswith(f + ".") for f in MAY_CHANGE)


def flatten(config: AnyConfig) -> dict[str, Any]:
  """Returns all leaves by dotted names; an empty group is a leaf."""
  leaves = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict | Mapping) and len(value):
      for path, leaf in flatten(value).items():
        leaves[f"{key}.{path}"] = leaf
    else:
      leaves[key] = value
  return leaves


def article(noun: str) -> str:
  """Returns a noun with its article: `an int`, `a float`."""
  return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _plain(value: Any, path: str = "") -> Any:
  """Returns a value in JSON's types; `path` is its field, for the error."""
  if isinstance(value, FieldReference):
    value = value.get()
  if isinstance(value, ConfigDict | Mapping):
    for key in value:
      if not isinstance(key, str):
        raise ConfigError(
          f"config: the key {key!r} in {path!r} is not a string"
        )
    return {
      k: _plain(v, f"{path}.{k}" if path else k) for k, v in value.items()
    }
  if isinstance(value, list | tuple):
    return [_plain(v, f"{path}[{i}]") for i, v in enumerate(value)]
  # Exact types: a NumPy scalar or an enum would come back as something else.
  if value is None or type(value) in (bool, int, float, str):
    return value
  kind = type(value).__name__
  raise ConfigError(
    f"config field {path!r} is {article(kind)}, which config.json cannot hold;"
    " use numbers, strings, booleans, None and tuples of them"
  )


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  if isinstance(value, list):
    return tuple(map(_tuples, value))
  return value


def _shown(leaves: dict[str, Any], path: str) -> str:
  if path not in leaves:
    return "absent"
  value = leaves[path]
  return repr(tuple(value) if isinstance(value, list) else value)


def _same(a: Any, b: Any) -> bool:
  return a == b and isinstance(a, bool) == isinstance(b, bool)
