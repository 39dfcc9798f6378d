"""Errors that end a command in one clear line, and parts of their messages.

Both errors are raised anywhere in the package with a message that says what is
wrong, where, and what to do. The command line prints that line without a
traceback and exits with the error's code.
"""

import contextlib
import difflib
import importlib.util
import os
import warnings
from collections.abc import Generator, Iterable


class UserError(Exception):
  """Work that cannot be done (exit code 1): a missing file, a full disk."""

  exit_code = 1


class ConfigError(UserError):
  """Bad arguments or configuration (exit code 2): a typo, a wrong shape."""

  exit_code = 2


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Generator[None]:
  """Turns every error of a file's reader into one line that names the file.

  A damaged file can make its reader raise almost anything: zipfile raises
  NotImplementedError for a changed version, UnicodeDecodeError for a changed
  name; numpy raises TokenError for a header that is cut short. The body should
  therefore read a file and interpret its content, and do nothing else.

  Args:
    path: the file that the body reads.

  Raises:
    UserError: the body raised an exception, which is the cause of this one. A
      UserError of the body is passed on as it is.
  """
  name = os.fspath(path)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # parsers remark on damaged headers
      yield
  except UserError:
    raise
  except OSError as error:
    reason = error.strerror or one_line(error)
    raise UserError(f"cannot read {name}: {reason}") from error
  except ValueError as error:
    raise UserError(f"cannot use {name}: {one_line(error)}") from error
  except Exception as error:
    reason = f"it seems damaged ({type(error).__name__}: {one_line(error)})"
    raise UserError(f"cannot use {name}: {reason}") from error


def one_line(error: BaseException) -> str:
  """Returns an exception's text on one line, cut to 200 characters."""
  return " ".join(str(error).split())[:200] or "no reason is given"


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


def is_installed(module: str) -> bool:
  """Returns whether a module could be imported, without importing it."""
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:  # the package that would hold it
    return False


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
