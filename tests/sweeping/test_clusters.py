"""Sweeps through Slurm and Google Cloud, with stand-ins for their programs."""

import os
import pathlib
import shutil
import subprocess
import zlib

import pytest

from scm_jax import files
from scm_jax.errors import UserError
from scm_jax.sweeping import launchers, runs, scoring, slurm
from scm_jax.sweeping.points import Point

REPOSITORY = pathlib.Path(__file__).parents[2]
SBATCH = """
echo "sbatch $*" >> "{root}/slurm"
n=$(grep -c ^sbatch "{root}/slurm")
[[ -z ${{REFUSE:-}} ]] || {{ echo "sbatch: error: Invalid qos" >&2; exit 1; }}
echo "$((10 + n))"
"""
SQUEUE = """
echo "squeue $*" >> "{root}/slurm"
cat "{root}/queue" 2> /dev/null && exit
echo "Invalid job id specified" >&2
exit 1
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> pathlib.Path:
  """Makes a repository of stubs, and returns its folder."""
  root = tmp_path / "repo"
  shutil.copytree(REPOSITORY / "launch", root / "launch")
  bodies = {
    "bin/sbatch": SBATCH.format(root=root),
    "bin/squeue": SQUEUE.format(root=root),
    "launch/setup.sh": "",
    "launch/gcp.sh": f'echo "$*" >> "{root}/gcp"; exit 3',
  }
  for name, body in bodies.items():
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
  monkeypatch.setattr(launchers, "ROOT", root)
  monkeypatch.setenv("PATH", f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}")
  (root / "slurm").touch()
  return root


def submitted(root: pathlib.Path) -> list[str]:
  lines = (root / "slurm").read_text().splitlines()
  return [line for line in lines if line.startswith("sbatch")]


SLURM = ("--launcher=slurm", "--launch=--gpus-per-node=0")


def test_a_job_that_cannot_be_noted_is_named(sweep, cluster, monkeypatch):
  """It would be submitted again."""
  write = files.write_text

  def full(path, text):
    if path.name == "jobs.json":
      raise UserError(f"cannot write {path}: No space left on device")
    return write(path, text)

  monkeypatch.setattr(slurm.files, "write_text", full)
  code, _, err, _ = sweep(*SLURM)
  assert code == 1 and "No space left" in err and "scancel 11" in err
  assert len(submitted(cluster)) == 1


def test_teachers_are_one_array_and_students_the_next(sweep, cluster, tmp_path):
  code, out, err, calls = sweep(*SLURM, "--launch=--time=1:00:00")
  assert (code, calls) == (0, []), err
  assert out.startswith("submitted 6 runs as 11, 12; ")
  first, second = submitted(cluster)
  assert "--array=0-1 " in first and "--time=1:00:00" in first
  assert f"--output={cluster}/runs/slurm/%x-%A_%a.log" in first
  assert "--dependency=afterok:11" in second and "--array=0-3 " in second
  assert "--kill-on-invalid-dep=yes" in second
  file = tmp_path / "sweep" / "slurm" / "array_1.tsv"
  assert second.endswith(
    f"launch/slurm/attempt.sh launch/slurm/one_of.sh {file}"
    f" {cluster}/.venv/bin/scm-jax train"
  )
  # A line is a run, as the array's task reads it.
  for index, name in ((0, "scd_tangent_c=0.1_seed=0"), (3, "c=1.0_seed=1")):
    said = subprocess.run(
      [cluster / "launch/slurm/one_of.sh", file, "echo"],
      env={**os.environ, "SLURM_ARRAY_TASK_ID": str(index)},
      capture_output=True,
      text=True,
    ).stdout
    assert said.startswith("--config=") and said.rstrip().endswith(name)


def test_what_is_queued_is_left_alone(sweep, cluster):
  sweep(*SLURM)
  (cluster / "queue").write_text("".join(f"12 {i}\n" for i in range(4)))
  # The teachers have left the queue without a log: they never began.
  code, _, err, _ = sweep("--launcher=local")
  assert code == 1 and "4 runs of" in err and "in Slurm's queue" in err
  code, out, _, _ = sweep(*SLURM)
  assert code == 0 and "submitted 2 runs as 13" in out
  assert "4 were in the queue" in out


def test_what_failed_is_submitted_again_on_request(sweep, cluster, tmp_path):
  sweep(*SLURM, "--only=teacher*")
  for index, done in enumerate((True, False)):
    folder = tmp_path / "sweep" / f"teacher_seed={index}"
    (folder / "checkpoints" / ("3" if done else "1")).mkdir(parents=True)
  log = cluster / "runs" / "slurm" / "scm-sweep-11_1.log"
  log.parent.mkdir(parents=True, exist_ok=True)
  log.write_text(
    "==> attempt 1\n1: scm-jax train: disk is full\n"
    "srun: error: node1: task 0: Exited with exit code 1\n"
    "0: slurmstepd-node1: error: *** STEP 11.0 ON node1 CANCELLED AT x ***\n"
    "srun: launch/slurm: _step_signal: Terminating StepId=1.0\n==> failed\n"
  )
  code, out, err, _ = sweep(*SLURM, "--only=teacher*")
  assert code == 1 and len(submitted(cluster)) == 1
  assert "teacher_seed=1 failed: scm-jax train: disk is full" in err
  code, out, _, _ = sweep(*SLURM, "--only=teacher*", "--retry")
  assert code == 0 and "submitted 1 runs as 12" in out
  # When all are there, the same command scores them, on this machine.
  (tmp_path / "sweep" / "teacher_seed=1" / "checkpoints" / "3").mkdir()
  code, out, _, calls = sweep(*SLURM, "--only=teacher*")
  assert code == 0 and len(calls) == 1 and "table: " in out


def test_a_waiting_array_keeps_its_lines(sweep, cluster, tmp_path):
  """The first of its runs is submitted again while the second waits."""
  sweep(*SLURM, "--only=teacher*")
  file = pathlib.Path(submitted(cluster)[0].split()[-3])
  before = file.read_text()
  log = cluster / "runs" / "slurm" / "scm-sweep-11_0.log"
  log.parent.mkdir(parents=True, exist_ok=True)
  log.write_text("0: scm-jax train: disk is full\n")
  (cluster / "queue").write_text("11 1\n")
  code, out, _, _ = sweep(*SLURM, "--only=teacher*", "--retry")
  assert code == 0 and "submitted 1 runs as 12" in out
  assert file.read_text() == before and len(before.splitlines()) == 2
  again = pathlib.Path(submitted(cluster)[1].split()[-3])
  assert again != file and again.read_text() == before.splitlines(True)[0]


def test_dry_run_names_arrays_and_their_lines(sweep, cluster, tmp_path):
  code, out, _, _ = sweep(*SLURM, "--dry-run", "--parallel=2")
  lines = out.splitlines()
  assert code == 0 and not submitted(cluster)
  assert not (tmp_path / "sweep").exists()
  commands = [line for line in lines if "slurm.sh" in line]
  assert len(commands) == 2 and "afterok:JOB0" in commands[1]
  assert all("--array-limit=2" in line for line in commands)
  assert lines[1].startswith("#   --config=")


def test_a_refused_array_is_said(sweep, cluster, monkeypatch):
  monkeypatch.setenv("REFUSE", "1")
  code, _, err, _ = sweep(*SLURM)
  assert code == 1 and err.splitlines()[-1].endswith(
    "failed; see its message above"
  )


def test_a_checkpoint_that_is_being_written_to_a_bucket_does_not_count(bucket):
  run = runs.Run(Point("a"), None, (), bucket)
  saved = bucket / "checkpoints" / "40"
  saved.mkdir(parents=True)
  (saved / "_METADATA").write_text("{}")
  assert run.step == 0
  (saved / "commit_success.txt").write_text("")
  assert run.step == 40


def test_google_cloud_has_machines_for_each_run(
  sweep, cluster, monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  # Buckets cannot be asked here; nothing is there.
  monkeypatch.setattr(runs.Run, "step", 0)
  monkeypatch.setattr(runs.Run, "failure", None)
  monkeypatch.setattr(scoring, "read", lambda run: {})
  flags = ("--launcher=gcp", "--launch=--accelerator=v5e:2x4", "--launch=--yes")
  code, out, _, _ = sweep(*flags, "--dry-run", workdir="gs://bucket/s")
  assert code == 0
  lines = [line for line in out.splitlines() if "gcp.sh run" in line]
  assert len(lines) == 6
  assert lines[1].endswith("--accelerator=v5e:2x4 --yes")
  assert "--config.teacher=gs://bucket/s/teacher_seed=0" in lines[1]
  names = [word for line in lines for word in line.split() if "--name=" in word]
  assert len(set(names)) == 6
  assert all(len(name) <= len("--name=") + 40 for name in names)


def test_machines_of_a_run_that_ended_unwatched_are_looked_after(
  sweep, cluster, monkeypatch, tmp_path
):
  """They go on after Ctrl-C, and only gcp.sh run deletes them at the end."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(runs.Run, "step", 3)  # all are finished
  monkeypatch.setattr(runs.Run, "owes", False)
  monkeypatch.setattr(runs.Run, "failure", None)
  monkeypatch.setattr(scoring, "read", lambda run: {})
  flags = ("--launcher=gcp", "--only=teacher*", "--dry-run")
  _, out, _, _ = sweep(*flags, workdir="gs://bucket/s")
  assert "gcp.sh" not in out
  name = f"scm-teacher-seed-1-{zlib.crc32(b'gs://bucket/s/teacher_seed=1'):08x}"
  kept = cluster / ".cache" / "gcp" / name / "flags"
  kept.parent.mkdir(parents=True)
  kept.touch()
  _, out, _, _ = sweep(*flags, workdir="gs://bucket/s")
  assert out.count("gcp.sh run") == 1 and f"--name={name}" in out


def test_a_task_of_an_array_goes_back_by_its_own_number(cluster, tmp_path):
  """One task of an array bears the number of the whole array."""
  for name, body in (
    ("srun", "kill -USR1 $PPID; sleep 1"),
    ("scancel", f'echo "scancel $*" >> "{tmp_path}/said"'),
    ("scontrol", f'echo "scontrol $*" >> "{tmp_path}/said"'),
  ):
    path = cluster / "bin" / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
  env = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
  env |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
  subprocess.run(
    [cluster / "launch/slurm/attempt.sh", "true"],
    env={**os.environ, **env},
    capture_output=True,
    check=True,
  )
  said = (tmp_path / "said").read_text().splitlines()
  assert said == ["scancel --signal=TERM 7_2", "scontrol requeue 7_2"]
