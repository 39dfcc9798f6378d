"""Loads the config of `--config=configs/X.py[:arg] --config.key=value ...`.

`scm_jax.cli.config_files` finds the file, which runs as plain Python, and
`scm_jax.cli.overrides` sets the fields. A user's mistake raises a `ConfigError`
that names the file, the line or the nearest existing field.
"""

import contextlib
import os
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from scm_jax.cli import config_files
from scm_jax.errors import ConfigError, UserError

if TYPE_CHECKING:
  from ml_collections import ConfigDict

_CONFIG_FLAG = re.compile(r"--(no)?config(\.|=|$)")
_VALUE = re.compile(r"[^-]|-[\d.]|$")  # not a flag; numbers may be negative
_MODULE = "scm_jax_config"
_FUNCTIONS = {"get_config": 'get_config(arg: str = "")', "sweep": "sweep()"}
# For `--help` only: argparse never sees the arguments that `split_argv` takes.
FLAGS = {
  "--config=FILE.py[:ARG]": "config file, or the name of a shipped one, such "
  "as digits; ARG is passed to its get_config (run=scd,tiny)",
  "--config.KEY=VALUE": "overrides a field of the config, such as "
  "--config.batch_size=64",
}


def split_argv(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Returns the config's arguments and all others, each in order.

  A config's flag and its value are joined: `--config FILE` to `--config=FILE`.
  """
  config_argv: list[str] = []
  rest: list[str] = []
  words = list(argv)
  while words:
    word = words.pop(0)
    known = _CONFIG_FLAG.match(word)
    if known and "=" not in word and words and _VALUE.match(words[0]):
      word += f"={words.pop(0)}"
    (config_argv if known else rest).append(word)
  return config_argv, rest


def parse_config(config_argv: Sequence[str]) -> "ConfigDict":
  """Loads a config file and applies the overrides.

  Args:
    config_argv: one `--config=FILE[:ARG]`, where FILE may be the name of a
      shipped config, and any number of `--config.key=value`; a space may
      replace the `=`. Tuples are written `1,2` or `(1,2)`, bools also
      `--config.key` and `--noconfig.key`.

  Returns:
    The locked config: its fields can be set, but none can be added.

  Raises:
    ConfigError: the file has no `get_config` that returns a config; a field is
      unknown, a value has the wrong type, or a flag is given twice.
  """
  from ml_collections import ConfigDict

  from scm_jax.cli import overrides

  target, overridden = split_flags(config_argv)
  name, _, arg = target.partition(":")
  path = config_files.find(name)
  config = _call(path, "get_config", lambda get: get(arg) if arg else get())
  if not isinstance(config, ConfigDict):
    kind = type(config).__name__
    raise ConfigError(f"get_config in {path} returned {kind}, not a ConfigDict")
  for flag, value in overridden.items():
    overrides.apply(config, flag, value, path)
  return config.lock()


def split_flags(
  config_argv: Sequence[str],
) -> tuple[str, dict[str, str | None]]:
  """Returns `--config`'s `FILE[:ARG]`, and the overrides' flags and values."""
  words, others = split_argv(config_argv)
  if others:
    raise ConfigError(f"{others[0]!r} is not a flag of the config")
  given: dict[str, str | None] = {}
  for word in words:
    flag, equals, value = word.partition("=")
    if flag in given:
      raise ConfigError(f"{flag} is given twice: {given[flag]} and {value}")
    given[flag] = value if equals else None
  target = given.pop("--config", None)
  if not target:
    known = ", ".join(config_files.names())
    raise ConfigError(
      f"--config is missing: give --config=FILE.py or --config=NAME of {known}"
    )
  return target, given


def load_sweep(target: str) -> list[Any]:
  """Returns what the `sweep()` of the config `FILE[:ARG]` returns.

  Raises:
    ConfigError: the file or its `sweep` is missing or raises an exception.
  """
  path = config_files.find(target.partition(":")[0])
  return _call(path, "sweep", lambda sweep: list(sweep()))


def _call(path: str, name: str, call: Callable[[Callable], Any]) -> Any:
  """Runs the config file, and passes its function of that name to `call`."""
  module = types.ModuleType(_MODULE)
  module.__file__ = path
  # A module that defines dataclasses must be importable by its name.
  sys.modules[_MODULE] = module
  source = _read(path)
  try:
    # Not imported, so that an edited file takes effect.
    with _searched(path):
      exec(compile(source, path, "exec"), module.__dict__)
      function = getattr(module, name, None)
      if not callable(function):
        raise ConfigError(f"{path} has no function {_FUNCTIONS[name]}")
      return call(function)
  except UserError as error:
    text = str(error)
    raise ConfigError(text if path in text else f"{path}: {text}") from None
  except Exception as error:
    raise ConfigError(_where(path, error)) from error


@contextlib.contextmanager
def _searched(path: str) -> Generator[None]:
  """Lets a config file import from its folder's parent, and shipped configs.

  So `from configs import digits` works from any folder. The namespace package
  `configs` spans both places, and the file's own neighbours come first.
  """
  own = os.path.dirname(os.path.dirname(os.path.abspath(path)))
  shipped = str(config_files.root())
  appended = shipped not in sys.path
  sys.path.insert(0, own)
  if appended:
    sys.path.append(shipped)
  try:
    yield
  finally:
    sys.path.remove(own)
    if appended:
      sys.path.remove(shipped)


def _read(path: str) -> bytes:
  if path.endswith(".json"):
    raise ConfigError(
      f"--config takes a config file in Python, and {path!r} is the record of "
      "a run; give the file and the argument that the run was made from"
    )
  try:
    return pathlib.Path(path).read_bytes()
  except FileNotFoundError:
    raise ConfigError(config_files.missing(path)) from None
  except OSError as error:
    reason = f"cannot read the config file {path!r}: {error.strerror}"
    raise ConfigError(reason) from None


def _where(path: str, error: Exception) -> str:
  """Returns `configs/x.py, line 12: ValueError: ...` for an exception."""
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == path]
  if isinstance(error, SyntaxError) and error.filename == path:
    lines.append(error.lineno)
  place = f"{path}, line {lines[-1]}" if lines else path
  text = error.msg if isinstance(error, SyntaxError) else str(error)
  return f"{place}: {type(error).__name__}: {' '.join(text.split())}"
