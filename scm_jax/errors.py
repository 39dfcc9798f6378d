"""The two ways a user's mistake ends: one clear line, and an exit code.

Both errors are raised anywhere in the package with a message that says what is
wrong, where, and what to do; the command line prints that line without a
traceback.
"""


class UserError(Exception):
  """The work could not be done (exit code 1): a missing file, a full disk."""

  exit_code = 1


class ConfigError(UserError):
  """Bad arguments or configuration (exit code 2): a typo, a wrong shape."""

  exit_code = 2


def missing_package(error: ImportError) -> str | None:
  """The name of the module that is not there, if that is what is wrong.

  Libraries that import others late wrap what Python says of it.
  """
  cause: BaseException | None = error
  while cause is not None:
    if isinstance(cause, ModuleNotFoundError) and cause.name:
      return cause.name
    cause = cause.__cause__ or cause.__context__
  return None


def needs(package: str) -> str:
  """What to say, and to do, where a package is missing."""
  # TFDS's own builders want TensorFlow, and nothing else does.
  extra = "prepare" if package.partition(".")[0] == "tensorflow" else "train"
  return (
    f"needs the package {package!r}, which is not installed; pip install "
    f"'scm-jax[{extra}]'"
  )
