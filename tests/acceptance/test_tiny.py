"""The whole command in its tiny form, on the CPU."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from scm_jax.acceptance import parts

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.mark.slow  # seven processes, each of which compiles
def test_every_kind_of_part_runs(tmp_path):
  done = subprocess.run(
    [
      REPOSITORY / "launch" / "accelerator.sh",
      "--tiny",
      f"--out={tmp_path}",
    ],
    env={**os.environ, "PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  log = tmp_path / "accelerator.log"
  assert done.returncode == 0, done.stderr + log.read_text()[-3000:]
  found = json.loads((tmp_path / "accelerator.json").read_text())["parts"]
  assert list(found) == list(parts.TINY)
  passed = [
    value["passed"]
    for part in found.values()
    for value in part["results"].values()
    if "passed" in value
  ]
  assert len(passed) == 4 and all(passed)
  drawn = found["sample-s"]["results"] | found["throughput-s"]["results"]
  assert len(drawn) == 5
  for one in drawn.values():
    assert min(one["ms"], one["queued_ms"], one["host_ms"]) > 0
  step = found["step-scd-s"]["results"]
  assert step["step"]["ms"] > 0 and step["expected"]["step"] > 0
