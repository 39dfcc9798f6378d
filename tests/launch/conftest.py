"""A copy of the launch scripts in a folder of its own, with stub programs."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.fixture
def repo(tmp_path: pathlib.Path) -> pathlib.Path:
  """Makes a small repository: launch/, .ci/, a config and a pyproject.toml."""
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


# Stands in for the Python of .venv: pip lists packages and builds a wheel.
PYTHON = """
case $* in
  *"pip list"*) echo jax==0.10.2; echo flax==0.12.8; echo libtpu==0.0.51 ;;
  *"pip wheel"*)
    for word; do [[ $word != --wheel-dir=* ]] || folder=${{word#*=}}; done
    mkdir -p "$folder" && touch "$folder/scm_jax-0.1.0-py3-none-any.whl"
    exit "${{BAD_WHEEL:-0}}" ;;
esac
"""


class Cloud:
  """`cloud(*flags, faults, reports)`: the result of gcp.sh in a fake cloud.

  Attributes:
    now: the fake cloud after the last call; see `fake_cloud`.
    folder: the files that gcp.sh keeps of the run scm-my-run.
  """

  def __init__(self, repo: pathlib.Path, bash: Callable):
    self.repo, self.bash = repo, bash
    self.folder = repo / ".cache/gcp/scm-my-run"
    self.now = {
      "name": "scm-my-run",
      "tpus": {},
      "instances": {},
      "jobsets": {},
      "bucket": [],
      "history": [],
    }
    self.env = {
      **os.environ,
      "PATH": f"{repo / 'bin'}{os.pathsep}{os.environ['PATH']}",
      "SCM_POLL_SECONDS": "0",
    }

  def __call__(
    self, *flags, faults=(), reports=(), script="launch/gcp.sh", **env
  ):
    """Runs gcp.sh.

    Args:
      *flags: its arguments.
      faults: (words of a call, error, and how often or "partial") each.
      reports: a text each, or a pair of a text and the changes to make then.
      script: another script to run instead.
      **env: further environment variables.
    """
    file = self.repo / "cloud.json"
    made = [self._fault(*fault) for fault in faults]
    looks = [[r, {}] if isinstance(r, str) else list(r) for r in reports]
    begin = {"history": [], "faults": made, "reports": looks, "last": ""}
    file.write_text(json.dumps(self.now | begin))
    result = self.bash(
      self.repo / script, *flags, cwd=self.repo, env={**self.env, **env}
    )
    self.now = json.loads(file.read_text())
    return result

  def _fault(self, call, error, times: Any = 99):
    partial = times == "partial"
    return {
      "call": call,
      "error": error,
      "times": 99 if partial else times,
      "partial": partial,
    }

  @property
  def machines(self) -> set[str]:
    """Returns the names of what exists."""
    kinds = ("tpus", "instances", "jobsets")
    return {name for kind in kinds for name in self.now[kind]}

  @property
  def history(self) -> list[str]:
    """Returns what the last call made, started, entered and deleted."""
    return self.now["history"]

  def job(self) -> dict[str, str]:
    """Returns the variables of the uploaded job, as bash reads them."""
    names = "NAME WORKDIR FAMILY HOSTS CONFIG OVERRIDES PINS"
    text = f"""
      source "{self.folder}/job.env"
      for name in {names}; do declare -n it=$name; echo "$name ${{it[*]}}"; done
      export -p"""
    out = subprocess.run(
      ["bash", "-c", text], capture_output=True, text=True, check=True
    ).stdout
    return dict(line.partition(" ")[::2] for line in out.splitlines())


@pytest.fixture
def cloud(repo, program, bash) -> Cloud:
  """Returns gcp.sh with a fake cloud, and stubs of pip and setup.sh."""
  shutil.copy(REPOSITORY / "pyproject.toml", repo)
  (repo / "bin").mkdir()
  fake = (pathlib.Path(__file__).parent / "fake_cloud.py").read_text()
  for name in ("gcloud", "kubectl"):
    path = repo / "bin" / name
    path.write_text(f"#!{sys.executable} -SE\n{fake}")
    path.chmod(0o755)
  program(repo / ".venv" / "bin" / "python", PYTHON.format(root=repo))
  program(repo / "launch" / "setup.sh", "")
  return Cloud(repo, bash)
