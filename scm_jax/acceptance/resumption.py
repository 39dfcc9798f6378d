"""Checks that training is a function of its seed, also when it is interrupted.

    python -m scm_jax.acceptance.resumption RUN STEPS FOLDER

goes on from the folder's checkpoint to a step, saves, and prints a digest of
the state. Processes are compared, because a program is compiled anew in each.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from scm_jax.acceptance import runs
from scm_jax.acceptance.parts import Request
from scm_jax.errors import UserError
from scm_jax.training import program, sharding
from scm_jax.training.benchmarks import sampling
from scm_jax.training.checkpoints.storage import Checkpoints
from scm_jax.training.step import init_state, seed_of

STEPS = 6


def measure(request: Request) -> Iterator[tuple[str, Any]]:
  """Yields whether two runs are equal, and an interrupted one to them."""
  folder = request.out / "resumption"
  shutil.rmtree(folder, ignore_errors=True)
  name = runs.digits("scd", request.tiny)

  def digest(steps: int, which: str) -> str:
    command = [sys.executable, "-m", __name__, name, str(steps)]
    done = subprocess.run(
      [*command, str(folder / which)],
      stdout=subprocess.PIPE,
      stdin=subprocess.DEVNULL,
      text=True,
    )
    if done.returncode:
      raise UserError(f"a training of {steps} steps failed")
    return done.stdout.split()[-1]

  expected = digest(STEPS, "whole")
  if not request.tiny:
    yield "two runs are equal", {"passed": digest(STEPS, "again") == expected}
  digest(STEPS // 2, "parts")
  passed = digest(STEPS, "parts") == expected
  yield "a resumed run is equal to an uninterrupted one", {"passed": passed}
  shutil.rmtree(folder, ignore_errors=True)


def train(name: str, steps: int, folder: str) -> str:
  """Trains to a step, from a checkpoint if there is one; returns a digest."""
  run = runs.run(name)
  mesh = sharding.make_mesh(run, jax.devices()[:1])
  made = program.make(run, mesh)
  checkpoints = Checkpoints(folder)
  state = checkpoints.restore(made.state)
  if state is None:
    where = jax.tree.map(lambda leaf: leaf.sharding, made.state)
    state = jax.jit(lambda: init_state(run), out_shardings=where)()
  teacher, batch = map(sampling.random_like, (made.teacher, made.batch))
  while int(state.step) < steps:
    state, _ = made.step(state, teacher, batch, seed_of(run))
  checkpoints.save(state)
  checkpoints.close()
  sha = hashlib.sha256()
  for leaf in jax.tree.leaves(state):
    sha.update(np.asarray(leaf).tobytes())
  return sha.hexdigest()


if __name__ == "__main__":
  print(train(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
