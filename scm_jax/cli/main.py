"""The console script `scm-jax TASK ...`: finds the task, runs it, ends cleanly.

A task is a module with `add_arguments(parser)`, `run(args, config_argv)` and
`EXAMPLE`. It imports jax and other heavy packages only inside `run`, so that
every `--help` answers at once.
"""

import argparse
import contextlib
import importlib
import itertools
import os
import sys
import textwrap
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from scm_jax import errors, plugins
from scm_jax.cli import configs, console, platforms
from scm_jax.errors import ConfigError, UserError

# Name -> (module, what `--help` says). Modules are imported when they are run.
TASKS: dict[str, tuple[str, str]] = {
  "prepare": ("scm_jax.cli.prepare", "makes a dataset of images or latents"),
  "train": ("scm_jax.cli.train", "trains; the same command resumes"),
  "status": ("scm_jax.cli.status", "where runs stand, and their health"),
  "sample": ("scm_jax.cli.sample", "draws samples from a trained workdir"),
  "serve": ("scm_jax.cli.serve", "a page and an HTTP API that draw at once"),
  "evaluate": ("scm_jax.cli.evaluate", "scores workdirs, writes a report"),
  "report": ("scm_jax.cli.report", "charts and one page of many runs"),
  "export": ("scm_jax.cli.export", "writes artifacts for other samplers"),
  "import-edm2": ("scm_jax.cli.import_edm2", "makes an EDM2 network a teacher"),
  "import-sit": (
    "scm_jax.cli.import_sit",
    "makes a run of a SiT or LightningDiT network",
  ),
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

HELP = """\
usage: scm-jax TASK [flags]

Continuous-time consistency models (sCM) in JAX.

tasks:
{tasks}

scm-jax TASK --help shows a task's flags and an example."""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one task and returns the exit code.

  Returns:
    0 if the work is done; 1 after one line about what failed: a `UserError`, an
    `OSError` or a missing package; 2 after a `ConfigError`, for bad arguments
    or a bad config; 130 if it was interrupted. Any other exception is a bug and
    passes through, with its traceback.
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
    # `No space left on device: 'runs/metrics.jsonl'`
    text = str(error).removeprefix(f"[Errno {error.errno}] ")
    kind = "" if error.strerror else f"{type(error).__name__}: "
    return _fail(prog, kind + text, 1)


def _run_task(name: str, argv: list[str]) -> int:
  module_name, summary = TASKS[name]
  console.start()
  platforms.choose(os.environ)
  module = importlib.import_module(module_name)
  parser = _Parser(
    prog=f"scm-jax {name}",
    description=summary,
    epilog="example:\n" + textwrap.indent(module.EXAMPLE.strip(), "  "),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  module.add_arguments(parser)
  config_argv: list[str] = []
  if "--config" in parser.format_usage():
    config_argv, argv = configs.split_argv(argv)
  parser.check_flags(argv)
  try:
    args = parser.parse_args(argv)
  except SystemExit as end:  # --help
    return int(end.code or 0)
  plugins.load()
  return module.run(args, config_argv) or 0


def _no_task(argv: list[str]) -> int:
  """Answers `scm-jax`, `--help`, `--version` and a misspelt task."""
  tasks = ", ".join(TASKS)
  if not argv:
    raise ConfigError(f"which task? {tasks}; see scm-jax --help")
  word = argv[0]
  if word in ("-h", "--help", "help"):
    lines = {f"  {name}": summary for name, (_, summary) in TASKS.items()}
    print(HELP.format(tasks=console.aligned(lines)))
  elif word == "--version":
    print(f"scm-jax {metadata.version('scm-jax')}")
  elif word.startswith("-"):
    raise ConfigError(f"the task comes first, before {word!r}: {tasks}")
  else:
    raise ConfigError(f"no task {word!r}; {errors.hint(word, TASKS)}")
  return 0


class _Parser(argparse.ArgumentParser):
  """An argument parser whose errors are one line, not a usage screen."""

  def check_flags(self, argv: Sequence[str]) -> None:
    """Raises ConfigError for a flag that does not exist, naming the nearest.

    Done before parsing, because argparse would rather complain about a
    required flag than about the misspelling of it.
    """
    flags = [flag for flag in self._option_string_actions if "." not in flag]
    for arg in itertools.takewhile("--".__ne__, argv):
      flag = arg.partition("=")[0]
      if flag.startswith("--") and flag not in flags:
        raise ConfigError(f"no flag {flag}; {errors.hint(flag, flags)}")

  def error(self, message: str) -> NoReturn:
    raise ConfigError(f"{message}; see {self.prog} --help")


def _fail(prog: str, message: str, exit_code: int) -> int:
  """Prints one line, whatever line breaks the message has."""
  with contextlib.suppress(OSError):  # a full disk or a closed pipe
    sys.stdout.flush()  # what was done comes before why it ended
  print(f"{prog}: {' '.join(message.split())}", file=sys.stderr, flush=True)
  return exit_code
