"""`--config=configs/X.py[:arg] --config.key=value ...` to a checked config.

The file runs as plain Python; `scm_jax.cli.overrides` sets the fields. What a
user can get wrong ends in one line: a `ConfigError` that names the file, the
line or the nearest real field. Imports ml_collections only when it parses, so
that `--help` works with the light core alone.
"""

import argparse
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from scm_jax import spelling
from scm_jax.errors import ConfigError

if TYPE_CHECKING:
  from ml_collections import ConfigDict

_CONFIG_FLAG = re.compile(r"--(no)?config(\.|=|$)")
_NUMBER = re.compile(r"-[\d.]")  # a value, although it starts with a dash
_MODULE = "scm_jax_config"
_FUNCTIONS = {"get_config": 'get_config(arg: str = "")', "sweep": "sweep()"}


def add_config_argument(parser: argparse.ArgumentParser) -> None:
  """Makes a task take a config; its `run` hands `config_argv` to parse_config.

  The flags are declared for `--help`; `split_argv` takes them out of the
  arguments before argparse sees them.
  """
  group = parser.add_argument_group("config")
  group.add_argument(
    "--config",
    metavar="FILE.py[:ARG]",
    default=argparse.SUPPRESS,
    help="config file; ARG goes to its get_config (run=scd,tiny)",
  )
  group.add_argument(
    "--config.KEY",
    metavar="VALUE",
    default=argparse.SUPPRESS,
    help="overrides a field of the config, such as --config.batch_size=64",
  )


def split_argv(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Splits arguments into those of the config and the rest, in order."""
  config_argv: list[str] = []
  rest: list[str] = []
  for flag, value in _flags_with_values(argv):
    taken = config_argv if _CONFIG_FLAG.match(flag) else rest
    taken += [flag] if value is None else [flag, value]
  return config_argv, rest


def parse_config(config_argv: Sequence[str]) -> "ConfigDict":
  """Loads a config file and applies the overrides.

  Args:
    config_argv: `--config=FILE[:ARG]` once, and any `--config.key=value`; a
      space may stand for the `=`. Tuples are written `1,2` or `(1,2)`; a bool
      also as `--config.key` and `--noconfig.key`.

  Returns:
    The locked config: fields can be set to values of their type, not added.

  Raises:
    ConfigError: no or no such file; a file that raises, has no `get_config` or
      returns something else; an unknown field, a value of the wrong type, a
      flag given twice or one that is not the config's.
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
  """`FILE[:ARG]` of `--config`, and the overrides' flags with their values.

  Raises:
    ConfigError: no `--config`, a flag given twice or that is not the config's.
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
    raise ConfigError("give a config: --config=configs/NAME.py")
  return target, flags


def load_sweep(target: str) -> list[Any]:
  """What the `sweep()` of a config file yields, `FILE[:ARG]`.

  Raises:
    ConfigError: no such file, no `sweep` in it, or one that raises.
  """
  path, _, _ = target.partition(":")
  return _call(path, "sweep", lambda sweep: list(sweep()))


def _flags_with_values(argv: Sequence[str]) -> list[tuple[str, str | None]]:
  """Pairs of (word, None), or (flag, value) for a spaced config flag."""
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
  """Runs the config file, and `call` with its function of that name."""
  module = types.ModuleType(_MODULE)
  module.__file__ = path
  # What a module that defines dataclasses needs to find itself.
  sys.modules[_MODULE] = module
  # `from configs import digits` works from any folder: a config file sees the
  # folder that holds its own, as it does under `python -m` in the repository.
  root = os.path.dirname(os.path.dirname(os.path.abspath(path)))
  source = _read(path)
  sys.path.insert(0, root)
  try:
    exec(compile(source, path, "exec"), module.__dict__)  # not cached: edits
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
  try:
    with open(path, "rb") as file:
      return file.read()
  except FileNotFoundError:
    folder = os.path.dirname(path)
    names = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    found = [os.path.join(folder, n) for n in names if n.endswith(".py")]
    near = spelling.nearest(path, found)
    hint = f"; did you mean {near!r}?" if near else ""
    raise ConfigError(f"no config file {path!r}{hint}") from None
  except OSError as error:
    raise ConfigError(f"config file {path!r}: {error.strerror}") from None


def _where(path: str, error: Exception) -> str:
  """`configs/x.py, line 12: ValueError: ...`: the deepest line of the file."""
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == path]
  if isinstance(error, SyntaxError) and error.filename == path:
    lines.append(error.lineno)
  place = f"{path}, line {lines[-1]}" if lines else path
  text = error.msg if isinstance(error, SyntaxError) else str(error)
  return f"{place}: {type(error).__name__}: {' '.join(text.split())}"
