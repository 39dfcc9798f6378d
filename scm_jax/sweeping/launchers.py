"""The commands that train one run: on this machine, or on Google Cloud."""

import pathlib
import re
import sys
import zlib
from collections.abc import Sequence

import scm_jax
from scm_jax.errors import UserError
from scm_jax.sweeping.runs import Run

PROGRAM = (sys.executable, "-m", "scm_jax")
ROOT = pathlib.Path(scm_jax.__file__).parents[1]


def script(name: str) -> str:
  """Returns the path of a script in the repository's folder `launch/`."""
  path = ROOT / "launch" / name
  if not path.exists():
    raise UserError(
      f"there is no {path}: launch scripts come with the repository; install "
      "scm_jax from it (pip install -e)"
    )
  return str(path)


def command(run: Run, launcher: str, flags: Sequence[str]) -> list[str]:
  """Returns the command that trains a run.

  The launcher is `local`, or `gcp` for machines of the run's own, which are
  deleted when it is complete; then there may be further flags of launch/gcp.sh.
  """
  if launcher == "local":
    return [*PROGRAM, *run.train]
  name = f"--name={_machines(run)}"
  return [script("gcp.sh"), "run", name, *run.train[1:], *flags]


def made(run: Run) -> bool:
  """Returns whether launch/gcp.sh made machines and has not deleted them."""
  return (ROOT / ".cache" / "gcp" / _machines(run) / "flags").exists()


def _machines(run: Run) -> str:
  name = re.sub("[^a-z0-9]+", "-", run.name.lower()).strip("-")
  return f"scm-{name[:24]}-{zlib.crc32(str(run.folder).encode()):08x}"
