"""Errors that end a command in one clear line, and parts of their messages.

Both errors are raised anywhere in the package with a message that says what is
wrong, where, and what to do. The command line prints that line without a
traceback and exits with the error's code.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
  """Work that cannot be done (exit code 1): a missing file, a full disk."""

  exit_code = 1


class ConfigError(UserError):
  """Bad arguments or configuration (exit code 2): a typo, a wrong shape."""

  exit_code = 2


def missing_package(error: ImportError) -> str | None:
  """Returns the name of the module whose absence caused an error, or None.

  Libraries that import others late wrap Python's own error.
  """
  cause: BaseException | None = error
  while cause is not None:
    if isinstance(cause, ModuleNotFoundError) and cause.name:
      return cause.name
    cause = cause.__cause__ or cause.__context__
  return None


def needs(package: str) -> str:
  """Returns the end of a message about a package that is not installed."""
  # TFDS's own builders want TensorFlow, and nothing else does.
  extra = "prepare" if package.partition(".")[0] == "tensorflow" else "train"
  return (
    f"needs the package {package!r}, which is not installed; pip install "
    f"'scm-jax[{extra}]'"
  )


def nearest(name: str, names: Iterable[str]) -> str | None:
  """Returns the entry of `names` that is most like `name`, or None."""
  found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
  return found[0] if found else None


def hint(name: str, names: Iterable[str], what: str = "choose from") -> str:
  """Returns the end of a message about a name that does not exist.

  Args:
    name: the name that the user gave.
    names: all names that exist.
    what: the words before the list of names.

  Returns:
    `did you mean 'x'?`, or the list if no name is similar.
  """
  names = list(names)
  found = nearest(name, names)
  return f"did you mean {found!r}?" if found else f"{what} {', '.join(names)}"
