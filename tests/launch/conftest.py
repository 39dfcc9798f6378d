"""A copy of the launch scripts in a folder of its own, with stub programs."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.fixture
def repo(tmp_path: pathlib.Path) -> pathlib.Path:
  """A small repository: launch/, .ci/, a config and a pyproject.toml."""
  # A space in the path, as some home folders have one.
  root = (tmp_path / "my repo").resolve()
  for folder in ("launch", ".ci"):
    shutil.copytree(REPOSITORY / folder, root / folder)
  (root / "configs").mkdir()
  for name in ("digits", "mnist"):
    (root / "configs" / f"{name}.py").write_text("")
  (root / "pyproject.toml").write_text("[project]\n")
  (root / ".venv" / "bin").mkdir(parents=True)
  return root


@pytest.fixture
def program() -> Callable[[pathlib.Path, str], None]:
  """Writes an executable bash script."""

  def write(path: pathlib.Path, body: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)

  return write


@pytest.fixture
def bash() -> Callable[..., subprocess.CompletedProcess[str]]:
  """Runs a script to its end, from / unless told, without terminal or input."""

  def run(script: pathlib.Path, *args: str, **options):
    return subprocess.run(
      [str(script), *args],
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=300,
      **{"cwd": "/", **options},
    )

  return run


# The Python of .venv, for gcp.sh.
PYTHON = """
case $* in
  *"pip list"*) echo jax==0.10.2; echo flax==0.12.8; echo libtpu==0.0.51 ;;
  *"pip wheel"*) echo "python $*" >> "{root}/calls"; exit "${{BAD_WHEEL:-0}}" ;;
esac
"""


class Cloud:
  """`cloud(*flags, rules=...)`: the result of gcp.sh and the calls it made.

  The attributes are the calls of a run gs://bucket/My_run in us-east5-a, on
  v5p:4x4x4 and a100-80gb:2x8.
  """

  place = "scm-my-run --zone=us-east5-a"
  queued = "gcloud compute tpus queued-resources"
  scratch = ".cache/gcp/scm-my-run"
  ship = [
    "setup train",
    f"python -m pip wheel --quiet --no-deps --wheel-dir={scratch}/wheel .",
    "gcloud storage rm --recursive gs://bucket/My_run/launch/state/",
    f"gcloud storage cp {scratch}/wheel/scm_jax-0.1.0-py3-none-any.whl"
    f" {scratch}/configs.tar.gz {scratch}/job.env launch/gcp/host.sh"
    " gs://bucket/My_run/launch/",
  ]
  describe = f"{queued} describe {place} --format=value(state.state)"
  create_tpu = (
    f"{queued} create scm-my-run --node-id={place} --type=v5p --topology=4x4x4"
    " --runtime-version=v2-alpha-tpuv5 --labels=scm-jax=scm-my-run"
    " --scopes=https://www.googleapis.com/auth/cloud-platform"
    f" --metadata-from-file=startup-script={scratch}/boot.sh"
  )
  delete_tpu = f"{queued} delete {place} --force --quiet"
  left_tpu = [
    f"{queued} list --zone=us-east5-a --filter=name~/scm-my-run$"
    " --format=value(name)",
    "gcloud compute tpus tpu-vm list --zone=us-east5-a"
    " --filter=name~/scm-my-run$ --format=value(name)",
  ]
  create_gpu = (
    "gcloud compute instances create scm-my-run-0 scm-my-run-1"
    " --zone=us-east5-a --machine-type=a2-ultragpu-8g"
    " --image-family=common-cu129-ubuntu-2204-nvidia-580"
    " --image-project=deeplearning-platform-release --boot-disk-size=200GB"
    " --boot-disk-type=pd-balanced --network-interface=nic-type=GVNIC"
    " --maintenance-policy=TERMINATE --scopes=cloud-platform"
    " --labels=scm-jax=scm-my-run --metadata=install-nvidia-driver=True"
    f" --metadata-from-file=startup-script={scratch}/boot.sh"
  )

  def __init__(self, repo: pathlib.Path, bash: Callable):
    self.repo, self.bash = repo, bash
    self.env = {
      **os.environ,
      "PATH": f"{repo / 'bin'}{os.pathsep}{os.environ['PATH']}",
      "SCM_POLL_SECONDS": "0",
    }

  def __call__(self, *flags, rules=(), script="launch/gcp.sh", **env):
    calls = self.repo / "calls"
    calls.write_text("")
    absent = [1, "", "ERROR: NOT_FOUND: Resource 'r' was not found."]
    every = [*rules, ["describe", [absent]]]
    (self.repo / "rules").write_text(json.dumps(every))
    result = self.bash(
      self.repo / script, *flags, cwd=self.repo, env={**self.env, **env}
    )
    return result, calls.read_text().splitlines()


@pytest.fixture
def cloud(repo, program, bash) -> Cloud:
  """gcp.sh with stubs of gcloud, kubectl, pip and setup.sh."""
  shutil.copy(REPOSITORY / "pyproject.toml", repo)
  (repo / "bin").mkdir()
  stub = (pathlib.Path(__file__).parent / "cloud_stub.py").read_text()
  for name in ("gcloud", "kubectl"):
    path = repo / "bin" / name
    path.write_text(f"#!{sys.executable} -SE\n{stub}")
    path.chmod(0o755)
  program(repo / ".venv" / "bin" / "python", PYTHON.format(root=repo))
  program(repo / "launch" / "setup.sh", f'echo "setup $*" >> "{repo}/calls"')
  return Cloud(repo, bash)
