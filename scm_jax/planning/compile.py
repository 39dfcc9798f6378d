"""Asks a worker's process about a config on a target; see `worker`."""

import json
import os
import subprocess
import sys
from typing import Any

from scm_jax import configuration
from scm_jax.errors import ConfigError, UserError
from scm_jax.planning import topology
from scm_jax.planning.targets import Target

_INVOLUNTARY = "Involuntary full rematerialization"


def ask(config: Any, target: Target, **what: Any) -> dict[str, Any]:
  """The worker's answer.

  Args:
    config: the run's config.
    target: what to compile for.
    **what: `compile`, `flops`, `meshes`; see `worker.answer`.

  Returns:
    Its answer; what was compiled also has `involuntary_rematerializations`,
    arrays that the partitioner of the program gathered on every device for
    want of anything better, and warned about.

  Raises:
    UserError: the compiler failed, or is not installed.
    ConfigError: the config makes no run on this target.
  """
  topology.check_plugin(target)
  request = {"config": configuration.to_json(config), "target": target.name}
  process = subprocess.run(
    [sys.executable, "-m", "scm_jax.planning.worker"],
    input=json.dumps(request | what),
    capture_output=True,
    text=True,
    env=os.environ | topology.environment(target),
  )
  lines = process.stdout.splitlines()
  if process.returncode or not lines:
    raise UserError(f"compiling for {target.name} failed: {_reason(process)}")
  result = json.loads(lines[-1])
  if "error" in result:
    kinds = {2: ConfigError, 1: UserError}
    raise kinds[result["exit_code"]](result["error"])
  if "compiled" in result:
    result["compiled"]["involuntary_rematerializations"] = process.stderr.count(
      _INVOLUNTARY
    )
  return result


def _reason(process: Any) -> str:
  """The line that says why: the exception's, else the last."""
  lines = [line.strip() for line in process.stderr.splitlines() if line.strip()]
  said = [line for line in lines if ("Error" in line or "F0" == line[:2])]
  fallback = f"it ended with exit code {process.returncode}"
  return (said or lines or [fallback])[-1][:400]
