"""Trains runs as Slurm job arrays, submitted by launch/slurm.sh.

The file `JOBS` in the sweep's folder lists what was submitted.
"""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence

from scm_jax import errors, files
from scm_jax.errors import UserError
from scm_jax.sweeping import launchers
from scm_jax.sweeping.runs import Run

JOBS = "slurm/jobs.json"


def _levels(runs: Sequence[Run]) -> list[list[Run]]:
  """Returns the runs by levels, each above those that its runs need."""
  depth: dict[str, int] = {}
  for run in runs:
    levels = (depth.get(name, -1) for name in run.needs)
    depth[run.name] = 1 + max(levels, default=-1)
  count = max(depth.values(), default=-1) + 1
  return [[r for r in runs if depth[r.name] == level] for level in range(count)]


def _array(
  runs: Sequence[Run],
  home: pathlib.Path,
  number: int,
  flags: Sequence[str],
  before: Sequence[str],
) -> tuple[pathlib.Path, str, list[str]]:
  """Returns the job array of one level: a file, its text, and a command.

  `number` counts the sweep's arrays: tasks that wait or are requeued read the
  file again, so that no later array may have it. `before` are the job numbers
  of the lower levels, which must succeed first.
  """
  file = home / "slurm" / f"array_{number}.tsv"
  text = "".join("\t".join(run.train[1:]) + "\n" for run in runs)
  after = []
  if before:
    after.append(f"--sbatch=--dependency=afterok:{before[-1]}")
    after.append("--sbatch=--kill-on-invalid-dep=yes")
  program = [launchers.script("slurm.sh"), f"--array={file}"]
  return file, text, [*program, f"--name={_job_name(home)}", *after, *flags]


def commands(
  runs: Sequence[Run], home: pathlib.Path, flags: Sequence[str]
) -> list[str]:
  """Returns the commands that `submit` would run, and the files' lines."""
  lines, jobs = [], []
  for number, level in enumerate(_levels(runs), len(_submitted(home))):
    file, text, command = _array(level, home, number, flags, jobs)
    jobs.append(f"JOB{len(jobs)}")
    lines += [f"# {file}:", *(f"#   {line}" for line in text.splitlines())]
    lines.append(f"{shlex.join(command)}  # job array {jobs[-1]}")
  return lines


def submit(
  runs: Sequence[Run], home: pathlib.Path, flags: Sequence[str]
) -> list[str]:
  """Submits a job array for each level and returns their job numbers.

  Raises:
    UserError: launch/slurm.sh could not submit an array.
  """
  jobs: list[str] = []
  submitted = _submitted(home)
  for level in _levels(runs):
    number = len(submitted)
    file, text, command = _array(level, home, number, flags, jobs)
    files.write_text(file, text)
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    found = re.search(r"==> job (\d+);", result.stdout)
    if result.returncode or not found:
      raise UserError(f"{shlex.join(command)} failed; see its message above")
    jobs.append(found[1])
    submitted.append({"job": found[1], "runs": [run.name for run in level]})
    # Written at once, so that an interruption submits nothing twice.
    try:
      files.write_text(home / JOBS, json.dumps(submitted, indent=2) + "\n")
    except UserError as error:
      raise UserError(
        f"{error}; job {found[1]} was submitted and is not noted there, so "
        f"cancel it (scancel {found[1]}) before you run this command again"
      ) from error
  return jobs


def queued(home: pathlib.Path) -> set[str]:
  """Returns the names of the sweep's runs that wait or run under Slurm.

  Raises:
    UserError: jobs were submitted, but `squeue` is missing or fails.
  """
  submitted = _submitted(home)
  if not submitted:
    return set()
  if not shutil.which("squeue"):
    raise UserError(
      f"runs of {home} were submitted to Slurm, but there is no squeue here; "
      "run this command where Slurm is installed"
    )
  numbers = ",".join(entry["job"] for entry in submitted)
  command = ["squeue", "--noheader", "--array", "--format=%F %K"]
  result = subprocess.run(
    [*command, f"--jobs={numbers}"], capture_output=True, text=True
  )
  # squeue fails for a single number that Slurm has forgotten by now.
  if result.returncode and "Invalid job id" not in result.stderr:
    raise UserError(f"squeue failed: {result.stderr.strip()}")
  runs = {entry["job"]: entry["runs"] for entry in submitted}
  lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
  return {runs[job][int(index)] for job, index in lines if index.isdigit()}


def record_failures(
  runs: Sequence[Run], home: pathlib.Path, queued: set[str]
) -> None:
  """Records the failure of each run that left the queue unfinished."""
  last = {  # a run may have been submitted several times
    name: (entry["job"], index)
    for entry in _submitted(home)
    for index, name in enumerate(entry["runs"])
  }
  for run in runs:
    if run.finished or run.name in queued or run.name not in last:
      continue
    job, index = last[run.name]
    log = launchers.ROOT / f"runs/slurm/{_job_name(home)}-{job}_{index}.log"
    if log.exists():  # otherwise the run never started
      run.record_failure(_last_words(log.read_text(errors="replace")))


def _last_words(log: str) -> str:
  """Returns the last line of a job's processes, or what Slurm says instead.

  Their lines begin with their numbers. After them `srun` says that they ended.
  """
  lines = [line for line in log.splitlines() if line.strip()]
  own = re.compile(r"\s*\d+: (?!slurmstepd)(.*\S)")
  said = [found[1] for line in lines if (found := own.match(line))]
  others = [line for line in lines if line[:3] != "==>"]
  return (said or others or ["no output"])[-1]


def _job_name(home: pathlib.Path) -> str:
  return f"scm-{home.name}"


def _submitted(home: pathlib.Path) -> list[dict]:
  file = home / JOBS
  if not file.exists():
    return []
  with errors.reading(file):
    return json.loads(file.read_text())
