"""The console script `scm-jax TASK ...`: finds the task, runs it, ends cleanly.

A task is a module with `add_arguments(parser)`, `run(args, config_argv)` and
`EXAMPLE`. It imports jax and other heavy packages only inside `run`, so that
every `--help` answers at once. How a run ends is decided here, in one place:

| raised in the task              | printed                     | exit code |
|---------------------------------|-----------------------------|-----------|
| nothing                         |                             | 0         |
| `UserError`, `OSError`, missing package | one line            | 1         |
| `ConfigError`                   | one line                    | 2         |
| `KeyboardInterrupt`             | one line                    | 130       |
| anything else (a bug)           | its traceback               | 1         |
"""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from scm_jax import errors
from scm_jax.cli import configs, platforms
from scm_jax.errors import ConfigError, UserError

# Name -> (module, what `--help` says). Modules are imported when they are run.
TASKS: dict[str, tuple[str, str]] = {
  "prepare": ("scm_jax.cli.prepare", "makes a dataset of images or latents"),
  "train": ("scm_jax.cli.train", "trains; the same command resumes"),
  "sample": ("scm_jax.cli.sample", "draws samples from a trained workdir"),
  "evaluate": ("scm_jax.cli.evaluate", "scores workdirs, writes a report"),
  "report": ("scm_jax.cli.report", "charts and one page of many runs"),
  "export": ("scm_jax.cli.export", "writes artifacts for other samplers"),
  "import-edm2": ("scm_jax.cli.import_edm2", "makes an EDM2 network a teacher"),
  "reconstruct": (
    "scm_jax.cli.reconstruct",
    "makes averages of other widths from snapshots",
  ),
  "convert-weights": (
    "scm_jax.cli.convert_weights",
    "writes a feature network's weights as safetensors",
  ),
  "plan": ("scm_jax.cli.plan", "says what a run needs on hardware not here"),
  "sweep": ("scm_jax.cli.sweep", "many runs of one config, one table"),
  "bench": ("scm_jax.cli.bench", "times steps and sampling of a config"),
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one task and returns the exit code.

  Args:
    argv: the arguments after the program's name; None takes `sys.argv`.

  Returns:
    0 done, 1 the work failed, 2 bad arguments or config, 130 interrupted.
    A bug's exception passes through, with its traceback.
  """
  argv = list(sys.argv[1:] if argv is None else argv)
  name = argv[0] if argv and argv[0] in TASKS else None
  prog = f"scm-jax {name}" if name else "scm-jax"
  try:
    return _run_task(name, argv[1:]) if name else _no_task(argv)
  except UserError as error:
    return _fail(prog, str(error), error.exit_code)
  except KeyboardInterrupt:
    return _fail(prog, "interrupted", 130)
  except ImportError as error:
    package = errors.missing_package(error) or "scm_jax"
    if package.partition(".")[0] == "scm_jax":
      raise
    return _fail(prog, errors.needs(package), 1)
  except BrokenPipeError:
    # The reader (`| head`) has gone; stop Python complaining at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except OSError as error:
    return _fail(prog, _os_error_text(error), 1)


def _run_task(name: str, argv: list[str]) -> int:
  module_name, summary = TASKS[name]
  # XLA and TensorFlow greet the user from C++, and on a full disk add lines of
  # their own to the one that says so.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  # Buckets are read by gcsfs; where TensorFlow is there, etils would import it.
  os.environ.setdefault("EPATH_USE_TF", "false")
  platforms.choose(os.environ)
  module = importlib.import_module(module_name)
  parser = _Parser(
    prog=f"scm-jax {name}",
    description=summary,
    epilog="example:\n"
    + "\n".join(f"  {line}" for line in module.EXAMPLE.strip().splitlines()),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  module.add_arguments(parser)
  config_argv: list[str] = []
  if parser.has_flag("--config"):
    config_argv, argv = configs.split_argv(argv)
  parser.check_flags(argv)
  try:
    args, extra = parser.parse_known_args(argv)
  except SystemExit as end:  # --help
    return int(end.code or 0)
  if extra:
    raise ConfigError(f"unexpected argument {extra[0]!r}; see {parser.prog} -h")
  return module.run(args, config_argv) or 0


def _no_task(argv: list[str]) -> int:
  """Answers `scm-jax`, `--help`, `--version` and a misspelt task."""
  if not argv:
    raise ConfigError(f"which task? {_task_list()}; see scm-jax --help")
  word = argv[0]
  if word in ("-h", "--help", "help"):
    print(_help_text())
    return 0
  if word == "--version":
    from importlib import metadata

    print(f"scm-jax {metadata.version('scm-jax')}")
    return 0
  if word.startswith("-"):
    raise ConfigError(f"the task comes first, before {word!r}: {_task_list()}")
  raise ConfigError(f"no task {word!r}; {errors.hint(word, TASKS)}")


def _task_list() -> str:
  return ", ".join(TASKS)


def _help_text() -> str:
  width = max(map(len, TASKS))
  lines = [f"  {name:{width}}  {text}" for name, (_, text) in TASKS.items()]
  return "\n".join(
    [
      "usage: scm-jax TASK [flags]",
      "",
      "Continuous-time consistency models (sCM) in JAX.",
      "",
      "tasks:",
      *lines,
      "",
      "scm-jax TASK --help shows a task's flags and an example.",
    ]
  )


class _Parser(argparse.ArgumentParser):
  """An argument parser whose errors are one line, not a usage screen."""

  def has_flag(self, flag: str) -> bool:
    return flag in self._option_string_actions

  def check_flags(self, argv: Sequence[str]) -> None:
    """Raises ConfigError for a flag that does not exist, naming the nearest.

    Done before parsing, because argparse would rather complain about a
    required flag than about the misspelling of it.
    """
    flags = [
      flag
      for flag in self._option_string_actions
      if flag.startswith("--") and "." not in flag
    ]
    for arg in argv:
      if arg == "--":
        return
      flag = arg.split("=", 1)[0]
      if flag.startswith("--") and flag not in flags:
        raise ConfigError(f"no flag {flag}; {errors.hint(flag, flags)}")

  def error(self, message: str) -> NoReturn:
    raise ConfigError(f"{message}; see {self.prog} --help")


def _os_error_text(error: OSError) -> str:
  """`No space left on device: 'runs/digits/metrics.jsonl'`."""
  if not error.strerror:
    return f"{type(error).__name__}: {error}"
  names = [repr(f) for f in (error.filename, error.filename2) if f is not None]
  return f"{error.strerror}: {' -> '.join(names)}" if names else error.strerror


def _fail(prog: str, message: str, exit_code: int) -> int:
  """Prints one line, whatever line breaks the message has."""
  with contextlib.suppress(OSError):  # a full disk or a closed pipe
    sys.stdout.flush()  # what was done comes before why it ended
  print(f"{prog}: {' '.join(message.split())}", file=sys.stderr, flush=True)
  return exit_code
