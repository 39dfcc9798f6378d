"""The two ways a user's mistake ends: one clear line, and an exit code.

Both are raised anywhere in the package with a message that says what is wrong,
where, and what to do; the command line prints that line without a traceback.
"""


class UserError(Exception):
  """The work could not be done (exit code 1): a missing file, a full disk."""

  exit_code = 1


class ConfigError(UserError):
  """Bad arguments or configuration (exit code 2): a typo, a wrong shape."""

  exit_code = 2
