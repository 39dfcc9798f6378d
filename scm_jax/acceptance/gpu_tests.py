"""Runs the tests that need a GPU, which no other machine runs."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import scm_jax
from scm_jax.acceptance.parts import Request

ROOT = pathlib.Path(scm_jax.__file__).parents[1]
FOLDER = "tests/gpu"


def measure(request: Request) -> Iterator[tuple[str, Any]]:
  """Yields whether all of them passed and none was skipped."""
  del request
  done = subprocess.run(
    [sys.executable, "-m", "pytest", "-q", "-m", "gpu", FOLDER],
    cwd=ROOT,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    text=True,
  )
  print(done.stdout, file=sys.stderr)  # for the log
  end = (done.stdout.splitlines() or ["pytest printed nothing"])[-1]
  passed = done.returncode == 0 and "skipped" not in end
  yield FOLDER, {"passed": passed, "why": end}
