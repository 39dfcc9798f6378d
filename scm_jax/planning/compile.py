"""Runs a worker process that compiles a config for a target; see `worker`."""

import json
import os
import subprocess
import sys
from typing import Any

from ml_collections import ConfigDict

from scm_jax import configuration
from scm_jax.errors import ConfigError, UserError
from scm_jax.planning import topology
from scm_jax.planning.targets import Target

_INVOLUNTARY = "Involuntary full rematerialization"  # a warning of XLA's


def ask(config: ConfigDict, target: Target, **request: Any) -> dict[str, Any]:
  """Returns the worker's answer to a request; see `worker.answer`.

  Its `compiled` also has `involuntary_rematerializations`: how many arrays
  XLA's partitioner replicated on all devices because it found no better way to
  reshard them.

  Raises:
    UserError: the compiler failed, or is not installed.
    ConfigError: the config is not valid on this target.
  """
  topology.check_plugin(target)
  request |= {"config": configuration.to_json(config), "target": target.name}
  process = subprocess.run(
    [sys.executable, "-m", "scm_jax.planning.worker"],
    input=json.dumps(request),
    capture_output=True,
    text=True,
    env=os.environ | topology.environment(target),
  )
  answers = process.stdout.splitlines()
  if process.returncode or not answers:
    lines = list(filter(None, map(str.strip, process.stderr.splitlines())))
    told = [line for line in lines if "Error" in line or line.startswith("F0")]
    code = f"it ended with exit code {process.returncode}"
    reason = (told or lines or [code])[-1][:400]
    raise UserError(f"compiling for {target.name} failed: {reason}")
  result = json.loads(answers[-1])
  if "error" in result:
    kinds = {2: ConfigError, 1: UserError}
    raise kinds[result["exit_code"]](result["error"])
  if "compiled" in result:
    count = process.stderr.count(_INVOLUNTARY)
    result["compiled"]["involuntary_rematerializations"] = count
  return result
