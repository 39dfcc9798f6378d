"""Runs of a sweep on other machines, by the scripts of `launch/`."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import zlib
from collections.abc import Sequence

import scm_jax
from scm_jax import files
from scm_jax.errors import UserError
from scm_jax.sweeping.runs import Run

ROOT = pathlib.Path(scm_jax.__file__).parents[1]
RECORD = "jobs.json"  # of what was submitted, in the sweep's folder `slurm`


def script(name: str) -> str:
  """The path of a launcher.

  Raises:
    UserError: scm_jax was installed without its repository.
  """
  path = ROOT / "launch" / name
  if not path.exists():
    raise UserError(
      f"{path} is not there; launchers come with the repository, install "
      "scm_jax from it (pip install -e)"
    )
  return str(path)


def gcp(run: Run, flags: Sequence[str]) -> list[str]:
  """Machines of its own for a run, deleted when it is complete."""
  name = re.sub("[^a-z0-9]+", "-", run.name.lower()).strip("-")
  digest = f"{zlib.crc32(str(run.folder).encode()):08x}"
  words = [script("gcp.sh"), "run", f"--name=scm-{name[:24]}-{digest}"]
  return [*words, *run.train[1:], *flags]


def levels(runs: Sequence[Run]) -> list[list[Run]]:
  """Runs that may train side by side: those of the first level, then ...

  A run is one level above its teacher, if that is among the runs.
  """
  depth: dict[str, int] = {}
  for run in runs:
    depth[run.name] = depth.get(run.point.teacher, -1) + 1
  count = max(depth.values(), default=-1) + 1
  return [[r for r in runs if depth[r.name] == level] for level in range(count)]


def array(
  runs: Sequence[Run],
  home: pathlib.Path,
  flags: Sequence[str],
  before: Sequence[str],
) -> tuple[pathlib.Path, str, list[str]]:
  """A level's job array: its file, what is in it, the command.

  Args:
    runs: of the level.
    home: the sweep's folder.
    flags: of launch/slurm.sh.
    before: the arrays of the lower levels, which must succeed first.
  """
  # A run is in one array at a time, so no array that waits loses its file.
  file = home / "slurm" / f"{runs[0].name}.tsv"
  text = "".join("\t".join(run.train[1:]) + "\n" for run in runs)
  words = [script("slurm.sh"), f"--array={file}", f"--name={_name(home)}"]
  if before:
    after = f"--sbatch=--dependency=afterok:{before[-1]}"
    words += [after, "--sbatch=--kill-on-invalid-dep=yes"]
  return file, text, [*words, *flags]


def submit(
  runs: Sequence[Run], home: pathlib.Path, flags: Sequence[str]
) -> list[str]:
  """Submits job arrays, one for each level; returns their numbers.

  Raises:
    UserError: launch/slurm.sh could not submit one.
  """
  jobs: list[str] = []
  record = _record(home)
  for level in levels(runs):
    file, text, words = array(level, home, flags, jobs)
    files.write_text(file, text)
    result = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    found = re.search(r"==> job (\d+);", result.stdout)
    if result.returncode or not found:
      raise UserError(f"{shlex.join(words)} failed; see above")
    jobs.append(found[1])
    record.append({"job": found[1], "runs": [run.name for run in level]})
    # At once: what was submitted must not be submitted again.
    files.write_text(
      home / "slurm" / RECORD, json.dumps(record, indent=2) + "\n"
    )
  return jobs


def queued(home: pathlib.Path) -> set[str]:
  """Names of the runs that Slurm still has, waiting or running.

  Raises:
    UserError: there were jobs, and Slurm cannot be asked.
  """
  record = _record(home)
  if not record:
    return set()
  if not shutil.which("squeue"):
    raise UserError(f"runs of {home} are with Slurm, and there is no squeue")
  numbers = ",".join(entry["job"] for entry in record)
  words = ["squeue", "--noheader", "--array", "--format=%F %K"]
  # One number at a time may be unknown to Slurm by now; several never fail.
  result = subprocess.run(
    [*words, f"--jobs={numbers}"], capture_output=True, text=True
  )
  if result.returncode and "Invalid job id" not in result.stderr:
    raise UserError(f"squeue failed: {result.stderr.strip()}")
  runs = {entry["job"]: entry["runs"] for entry in record}
  lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
  return {runs[job][int(index)] for job, index in lines if index.isdigit()}


def note_failures(runs: Sequence[Run], home: pathlib.Path) -> None:
  """Writes down which runs left the queue unfinished, and their last lines."""
  still = queued(home)
  last = {  # a run may have been submitted before
    name: (entry["job"], index)
    for entry in _record(home)
    for index, name in enumerate(entry["runs"])
  }
  for run in runs:
    if run.finished or run.name in still or run.name not in last:
      continue
    job, index = last[run.name]
    log = ROOT / "runs" / "slurm" / f"{_name(home)}-{job}_{index}.log"
    if log.exists():  # else it never started
      run.fail(_last_line(log))


def _last_line(log: pathlib.Path) -> str:
  """What the first process that failed said last, without its label."""
  lines = log.read_text(errors="replace").splitlines()
  said = [line for line in lines if line.strip() and line[:3] != "==>"]
  return re.sub(r"^\s*\d+: ", "", said[-1]) if said else "ended without a word"


def _name(home: pathlib.Path) -> str:
  return f"scm-{home.name}"


def _record(home: pathlib.Path) -> list[dict]:
  file = home / "slurm" / RECORD
  return json.loads(file.read_text()) if file.exists() else []
