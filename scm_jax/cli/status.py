"""`scm-jax status`: where runs stand, their goodput and their health."""

import argparse
import datetime
import json
from typing import Any

from scm_jax.cli import flags

EXAMPLE = """\
scm-jax status --workdir=runs/digits/teacher
scm-jax status --workdir=runs/sweep,runs/digits/scd --json"""

FLAGS = {
  "--workdir=DIR,DIR,...": "workdirs of runs, or folders of workdirs, such as "
  "a sweep's",
  **flags.JSON,
}
add_arguments = flags.adder(FLAGS, ["workdir"])


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Prints a line for each run, and what to look at."""
  from scm_jax import files
  from scm_jax.training.monitoring import status

  folders = [run for folder in args.workdir for run in status.runs(folder)]
  once: dict[str, str] = {}
  for folder in folders:
    once.setdefault(files.absolute(folder), folder)
  found = [status.status(folder) for folder in once.values()]
  print(json.dumps({"runs": found}) if args.json else table(found))


def table(found: list[dict[str, Any]]) -> str:
  """Returns the runs as lines for a terminal."""
  import pandas as pd

  rows = []
  for run in found:
    silent, left, rate = (
      run[key] for key in ("seconds_silent", "seconds_left", "steps_per_second")
    )
    rows.append(
      {
        "run": run["workdir"],
        "state": run["state"],
        "step": f"{run['step']} of {run['total_steps']}",
        "saved": _shown(run["checkpoint"], "d"),
        "loss": _shown(run["loss"], ".4g"),
        "steps/s": _shown(rate, ".3g"),
        "left": _duration(left),
        "goodput": _shown(run["goodput"], ".0%"),
        "starts": _shown(run["processes"], "d"),
        "written": "–" if silent is None else f"{_duration(silent)} ago",
      }
    )
  notes = [f"{run['workdir']}: {x}" for run in found for x in run["warnings"]]
  return "\n".join([pd.DataFrame(rows).to_string(index=False), *notes])


def _shown(value: float | None, form: str) -> str:
  return "–" if value is None else format(value, form)


def _duration(seconds: float | None) -> str:
  """Returns hours, minutes and seconds: `2:03:20`."""
  if seconds is None:
    return "–"
  return str(datetime.timedelta(seconds=round(seconds)))
