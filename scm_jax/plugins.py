"""Modules of other packages that add entries to the registries.

A package names such a module as an entry point of the group `scm_jax`:

    [project.entry-points.scm_jax]
    shortcut = "my_package.shortcut"

Every command imports the modules of all installed packages, and so do the
processes that it starts. So a run, its samples, its scores and its plan know
the same objectives and networks.
"""

import contextlib
import functools
import sys
from importlib import metadata

from scm_jax import errors
from scm_jax.errors import UserError

GROUP = "scm_jax"


@functools.cache
def load() -> None:
  """Imports the modules, once in a process.

  Raises:
    UserError: one of them cannot be imported.
  """
  for entry in metadata.entry_points(group=GROUP):
    try:
      with contextlib.redirect_stdout(sys.stderr):  # stdout is the command's
        entry.load()
    except (Exception, SystemExit) as error:
      raise UserError(
        f"the plug-in {entry.name} cannot be imported from {entry.value} "
        f"({type(error).__name__}: {errors.one_line(error)}); mend it, or "
        "uninstall its package"
      ) from error
