"""Checks that training is a function of its seed, also when it is interrupted.

    python -m scm_jax.acceptance.resumption RUN ORDER STEPS FOLDER

goes on from the folder's checkpoint to a step, saves, and prints digests of the
state's arrays. ORDER is the run's `sharding.filter_order`. Processes are
compared, because a process compiles what the cache of programs does not hold,
and may choose other kernels for it.
"""

import hashlib
import json
import os
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
from scm_jax.training.step import seed_of

STEPS = 6
NAMED = 5  # arrays that a failed check names
# Small programs are kept, too: the one that draws the weights is one of them.
_KEPT = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

Digests = dict[str, str]  # of the arrays, by their paths


def measure(request: Request) -> Iterator[tuple[str, Any]]:
  """Yields whether two runs are equal, and an interrupted one to them."""
  folder = request.out / "resumption"
  shutil.rmtree(folder, ignore_errors=True)
  name = runs.digits("scd", request.tiny)

  def trained(steps: int, which: str) -> dict[str, Digests]:
    order = request.options["filter_order"]
    command = [sys.executable, "-m", __name__, name, order, str(steps)]
    done = subprocess.run(
      [*command, str(folder / which)],
      env=os.environ | _KEPT,
      stdout=subprocess.PIPE,
      stdin=subprocess.DEVNULL,
      text=True,
    )
    if done.returncode:
      raise UserError(f"a training of {steps} steps failed")
    return json.loads(done.stdout.splitlines()[-1])

  whole = trained(STEPS, "whole")
  repeated = _compared(whole["end"], whole["repeated"])
  yield "a process that trains twice finds the same", repeated
  if not request.tiny:
    again = trained(STEPS, "again")
    yield "two runs begin equal", _compared(whole["start"], again["start"])
    yield "two runs are equal", _compared(whole["end"], again["end"])
  trained(STEPS // 2, "parts")
  resumed = trained(STEPS, "parts")
  yield (
    "a resumed run is equal to an uninterrupted one",
    _compared(whole["end"], resumed["end"]),
  )
  shutil.rmtree(folder, ignore_errors=True)


def _compared(a: Digests, b: Digests) -> dict[str, Any]:
  """Returns whether all arrays are equal, and names some that are not."""
  other = [path for path in a if a[path] != b.get(path)]
  if not other:
    return {"passed": True}
  names = ", ".join(other[:NAMED])
  why = f"{len(other)} of {len(a)} arrays differ, such as {names}"
  return {"passed": False, "why": why}


def train(name: str, order: str, steps: int, folder: str) -> dict[str, Digests]:
  """Trains to a step, from a checkpoint if there is one, and saves.

  Args:
    name: the run, as `runs.run` takes it.
    order: its `sharding.filter_order`.
    steps: the last step.
    folder: where the checkpoints lie.

  Returns:
    The digests of the first state, of the last, and of the last one of the same
    steps when they are done a second time.
  """
  run = runs.run(name, **{"sharding.filter_order": order})
  mesh = sharding.make_mesh(run, jax.devices()[:1])
  made = program.make(run, mesh)
  checkpoints = Checkpoints(folder)
  teacher, batch = map(sampling.random_like, (made.teacher, made.batch))

  def start():
    state = checkpoints.restore(made.state)
    return program.first_state(run, made.state) if state is None else state

  def end():
    state = start()
    while int(state.step) < steps:
      state, _ = made.step(state, teacher, batch, seed_of(run))
    return state

  found = {"start": _digests(start()), "repeated": _digests(end())}
  state = end()
  checkpoints.save(state)
  checkpoints.close()
  return found | {"end": _digests(state)}


def _digests(state: Any) -> Digests:
  return {
    jax.tree_util.keystr(path): hashlib.sha256(
      np.asarray(leaf).tobytes()
    ).hexdigest()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }


if __name__ == "__main__":
  _, name, order, steps, folder = sys.argv
  print(json.dumps(train(name, order, int(steps), folder)))
