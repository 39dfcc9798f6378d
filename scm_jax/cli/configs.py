"""Loads the config of `--config=configs/X.py[:arg] --config.key=value ...`.

The file runs as plain Python; `scm_jax.cli.overrides` sets the fields. A user's
mistake raises a `ConfigError` that names the file, the line or the nearest
existing field. The module imports ml_collections only when it parses, so that
`--help` works without it.
"""

import argparse
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from scm_jax import errors
from scm_jax.errors import ConfigError

if TYPE_CHECKING:
  from ml_collections import ConfigDict

_CONFIG_FLAG = re.compile(r"--(no)?config(\.|=|$)")
_NUMBER = re.compile(r"-[\d.]")  # a value that starts with a dash
_MODULE = "scm_jax_config"
_FUNCTIONS = {"get_config": 'get_config(arg: str = "")', "sweep": "sweep()"}


def add_config_argument(parser: argparse.ArgumentParser) -> None:
  """Declares the config's flags; the task's `run` calls `parse_config`.

  They appear in `--help` only: `split_argv` removes them from the arguments
  before argparse parses these.
  """
  group = parser.add_argument_group("config")
  group.add_argument(
    "--config",
    metavar="FILE.py[:ARG]",
    default=argparse.SUPPRESS,
    help="config file; ARG is passed to its get_config (run=scd,tiny)",
  )
  group.add_argument(
    "--config.KEY",
    metavar="VALUE",
    default=argparse.SUPPRESS,
    help="overrides a field of the config, such as --config.batch_size=64",
  )


def split_argv(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Returns the config's arguments and all others, each in order."""
  config_argv: list[str] = []
  rest: list[str] = []
  for flag, value in _flags_with_values(argv):
    taken = config_argv if _CONFIG_FLAG.match(flag) else rest
    taken += [flag] if value is None else [flag, value]
  return config_argv, rest


def parse_config(config_argv: Sequence[str]) -> "ConfigDict":
  """Loads a config file and applies the overrides.

  Args:
    config_argv: one `--config=FILE[:ARG]` and any number of
      `--config.key=value`; a space may replace the `=`. Tuples are written
      `1,2` or `(1,2)`, bools also `--config.key` and `--noconfig.key`.

  Returns:
    The locked config: its fields can be set, but none can be added.

  Raises:
    ConfigError: the file is missing, raises an exception, has no `get_config`
      or does not return a config; a field is unknown, a value has the wrong
      type, or a flag is given twice or is not the config's.
  """
  from scm_jax.cli import overrides

  target, flags = split_flags(config_argv)
  path, _, arg = target.partition(":")
  config = _load(path, arg)
  for flag, value in flags.items():
    overrides.apply(config, flag, value, path)
  return config.lock()


def split_flags(
  config_argv: Sequence[str],
) -> tuple[str, dict[str, str | None]]:
  """Returns `--config`'s `FILE[:ARG]`, and the overrides' flags and values.

  Raises:
    ConfigError: there is no `--config`, or a flag is given twice or is not the
      config's.
  """
  flags: dict[str, str | None] = {}
  for flag, value in _flags_with_values(config_argv):
    if not _CONFIG_FLAG.match(flag):
      raise ConfigError(f"{flag!r} is not a flag of the config")
    if "=" in flag:
      flag, value = flag.split("=", 1)
    if flag in flags:
      raise ConfigError(f"{flag} is given twice: {flags[flag]} and {value}")
    flags[flag] = value
  target = flags.pop("--config", None)
  if not target:
    raise ConfigError("--config is missing: give --config=configs/NAME.py")
  return target, flags


def load_sweep(target: str) -> list[Any]:
  """Returns what the `sweep()` of a config file returns.

  Args:
    target: the config, `FILE[:ARG]`.

  Raises:
    ConfigError: the file is missing, or its `sweep` is missing or raises an
      exception.
  """
  path, _, _ = target.partition(":")
  return _call(path, "sweep", lambda sweep: list(sweep()))


def _flags_with_values(argv: Sequence[str]) -> list[tuple[str, str | None]]:
  """Returns pairs (word, None), or (flag, value) for `--config.KEY VALUE`."""
  pairs: list[tuple[str, str | None]] = []
  words = list(argv)
  while words:
    word = words.pop(0)
    spaced = _CONFIG_FLAG.match(word) and "=" not in word and words
    if spaced and (words[0][:1] != "-" or _NUMBER.match(words[0])):
      pairs.append((word, words.pop(0)))
    else:
      pairs.append((word, None))
  return pairs


def _load(path: str, arg: str) -> "ConfigDict":
  """Runs the config file and its `get_config`."""
  from ml_collections import ConfigDict

  config = _call(path, "get_config", lambda get: get(arg) if arg else get())
  if not isinstance(config, ConfigDict):
    kind = type(config).__name__
    raise ConfigError(f"get_config in {path} returned {kind}, not a ConfigDict")
  return config


def _call(path: str, name: str, call: Callable[[Callable], Any]) -> Any:
  """Runs the config file, and passes its function of that name to `call`."""
  module = types.ModuleType(_MODULE)
  module.__file__ = path
  # A module that defines dataclasses must be importable by its name.
  sys.modules[_MODULE] = module
  # `from configs import digits` works from any folder, because a config file
  # can import from the parent of its own folder.
  root = os.path.dirname(os.path.dirname(os.path.abspath(path)))
  source = _read(path)
  sys.path.insert(0, root)
  try:
    # Not imported, so that an edited file takes effect.
    exec(compile(source, path, "exec"), module.__dict__)
    function = getattr(module, name, None)
    if not callable(function):
      raise ConfigError(f"{path} has no function {_FUNCTIONS[name]}")
    return call(function)
  except ConfigError as error:
    text = str(error)
    raise ConfigError(text if path in text else f"{path}: {text}") from None
  except Exception as error:
    raise ConfigError(_where(path, error)) from error
  finally:
    sys.path.remove(root)


def _read(path: str) -> bytes:
  """Returns the source of a config file."""
  try:
    with open(path, "rb") as file:
      return file.read()
  except FileNotFoundError:
    folder = os.path.dirname(path)
    names = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    found = [os.path.join(folder, n) for n in names if n.endswith(".py")]
    near = errors.nearest(path, found)
    hint = f"; did you mean {near!r}?" if near else ""
    raise ConfigError(f"there is no config file {path!r}{hint}") from None
  except OSError as error:
    raise ConfigError(
      f"cannot read the config file {path!r}: {error.strerror}"
    ) from None


def _where(path: str, error: Exception) -> str:
  """Returns `configs/x.py, line 12: ValueError: ...` for an exception."""
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == path]
  if isinstance(error, SyntaxError) and error.filename == path:
    lines.append(error.lineno)
  place = f"{path}, line {lines[-1]}" if lines else path
  text = error.msg if isinstance(error, SyntaxError) else str(error)
  return f"{place}: {type(error).__name__}: {' '.join(text.split())}"
