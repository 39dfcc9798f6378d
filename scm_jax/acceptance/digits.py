"""Runs the main job on digits: a teacher, its students, and their report."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from scm_jax.acceptance import runs
from scm_jax.acceptance.parts import Request
from scm_jax.errors import UserError

RUNS = ("teacher", "scd", "sct")
_COMPILED = re.compile(r"Finished XLA compilation of .* in ([\d.]+) sec")


def measure(request: Request) -> Iterator[tuple[str, Any]]:
  """Yields each command's times, and the distances of the report.

  A training that was cut short goes on from its checkpoint.
  """
  folder = request.out / "digits"
  for name in RUNS:
    if name in request.have:
      continue
    config = f"--config={runs.digits(name, request.tiny)}"
    flags = [config, f"--workdir={folder / name}"]
    if name != "teacher":
      flags.append(f"--config.teacher={folder / 'teacher'}")
    yield name, _task("train", *flags)
  workdirs = ",".join(str(folder / name) for name in RUNS)
  few = ["--num=100"] if request.tiny else []
  flags = [f"--workdir={workdirs}", f"--out={folder}", *few]
  yield "evaluate", _task("evaluate", *flags)
  report = json.loads((folder / "report.json").read_text())
  for run in report["runs"]:
    yield run["name"], {"frechet_distance": run["fd"]}


def _task(task: str, *flags: str) -> dict[str, float]:
  """Runs a command of scm-jax; returns its seconds and its compilations.

  Programs that JAX's cache has count, too; they take less time. JAX says twice
  how long each took, with nine digits.
  """
  start, compilations, line = time.perf_counter(), {}, ""
  process = subprocess.Popen(
    [sys.executable, "-m", "scm_jax", task, *flags],
    env={**os.environ, "JAX_LOG_COMPILES": "1"},
    stdin=subprocess.DEVNULL,
    stdout=sys.stderr,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stderr
  for line in process.stderr:
    if found := _COMPILED.search(line):
      compilations[found[0]] = float(found[1])
    else:
      sys.stderr.write(line)
  if code := process.wait():
    raise UserError(f"scm-jax {task} ended with code {code}: {line.strip()}")
  return {
    "seconds": time.perf_counter() - start,
    "compilations": len(compilations),
    "compile_seconds": sum(compilations.values()),
  }
