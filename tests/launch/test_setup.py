"""launch/setup.sh: runs pip when something changed, and only then."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

# Stands for both the Python given and the one that "venv" puts into .venv.
FAKE_PYTHON = """
root="{root}"
case "$*" in
  "-m venv --clear "*)
    echo venv >> "$root/log"
    rm -rf "$4" && mkdir -p "$4/bin" && cp "$root/python" "$4/bin/python" ;;
  "-c import pip") [[ ! -e $root/no-pip || $0 == "$root/python" ]] ;;
  "-m pip install "*)
    echo "pip ${{*: -1}}" >> "$root/log"
    if [[ -n ${{SLOW_PIP:-}} ]]; then exec sleep 20; fi
    if [[ -n ${{BAD_PIP:-}} ]]; then
      echo "ERROR: No matching distribution"; echo more; exit 1
    fi ;;
  *) exec "{python}" "$@" ;;
esac
"""


@pytest.fixture
def setup(repo, program, bash):
  """Runs setup.sh with a fake Python; returns the result and new log lines."""
  shutil.rmtree(repo / ".venv")
  fake = repo / "python"
  program(fake, FAKE_PYTHON.format(root=repo, python=sys.executable))
  log = repo / "log"

  def run(*args: str, **env: str):
    log.write_text("")
    result = bash(
      repo / "launch" / "setup.sh",
      *args,
      env={**os.environ, "PYTHON": str(fake), "SCM_DEVICE": "cpu", **env},
    )
    return result, log.read_text().splitlines()

  return run


def test_installs_once(setup):
  result, calls = setup()
  assert result.returncode == 0, result.stderr
  assert calls == ["venv", "pip .[train]"]
  assert len(result.stderr.splitlines()) == 3  # venv, pip, done
  result, calls = setup()
  assert (result.returncode, result.stderr, calls) == (0, "", [])


def test_installs_again_when_the_project_changed(setup, repo):
  setup()
  with (repo / "pyproject.toml").open("a") as file:
    file.write("version = '2'\n")
  assert setup()[1] == ["pip .[train]"]
  assert setup()[1] == []


def test_extras_add_up(setup):
  setup("train")
  assert setup("train,test")[1] == ["pip .[test,train]"]
  assert setup("train")[1] == []
  assert setup("test")[1] == []


def test_installs_again_when_the_folder_moved(setup, repo, bash, program):
  setup()
  moved = repo.parent / "moved"
  repo.rename(moved)
  program(
    moved / "python", FAKE_PYTHON.format(root=moved, python=sys.executable)
  )
  shutil.copy(moved / "python", moved / ".venv" / "bin" / "python")
  (moved / "log").write_text("")
  python = str(moved / "python")
  env = {**os.environ, "PYTHON": python, "SCM_DEVICE": "cpu"}
  assert bash(moved / "launch" / "setup.sh", env=env).returncode == 0
  assert (moved / "log").read_text() == "pip .[train]\n"


def test_a_failed_installation_is_one_line_and_is_tried_again(setup, repo):
  result, _ = setup(BAD_PIP="1")
  assert result.returncode == 1
  last = result.stderr.splitlines()[-1]
  assert last.startswith("setup: pip failed: ERROR: No matching distribution")
  log = repo / ".cache" / "setup.log"
  assert str(log) in last and "more" in log.read_text()
  assert setup()[1] == ["pip .[train]"]


def test_an_interrupted_installation_is_tried_again(setup, repo):
  setup()
  (repo / "pyproject.toml").write_text("changed")
  (repo / "log").write_text("")
  process = subprocess.Popen(
    [str(repo / "launch" / "setup.sh")],
    env={
      **os.environ,
      "PYTHON": str(repo / "python"),
      "SCM_DEVICE": "cpu",
      "SLOW_PIP": "1",
    },
    stderr=subprocess.PIPE,
    text=True,
  )
  deadline = time.monotonic() + 300
  while not (repo / "log").read_text() and time.monotonic() < deadline:
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=300)
  assert process.returncode == 130
  assert err.splitlines()[-1] == "setup: interrupted"
  assert setup()[1] == ["pip .[train]"]


def test_an_unfinished_environment_is_made_anew(setup, repo):
  setup()
  (repo / "no-pip").touch()
  assert setup()[1][0] == "venv"


def test_an_unsuitable_python_is_one_line(setup, repo, program):
  program(repo / "old", 'exit "$(( $1 == -c ? 1 : 0 ))"')
  result, calls = setup(PYTHON=str(repo / "old"))
  assert (result.returncode, calls) == (1, [])
  assert result.stderr == (
    f"setup: PYTHON={repo}/old is not a Python 3.11 or newer with venv and"
    " ensurepip\n"
  )


def test_no_python_at_all_is_one_line(setup, repo):
  bin_folder = repo / "bin"
  bin_folder.mkdir()
  tools = "bash cat dirname env flock mkdir paste sed sort tail tr".split()
  for tool in tools:
    found = shutil.which(tool)
    if found:
      (bin_folder / tool).symlink_to(pathlib.Path(found).resolve())
  result, calls = setup(PYTHON="", PATH=str(bin_folder))
  assert (result.returncode, calls) == (1, [])
  assert result.stderr.startswith("setup: no Python 3.11 or newer")
  assert result.stderr.count("\n") == 1


def test_a_tested_suitable_python_is_taken(setup, repo, program):
  bin_folder = repo / "bin"
  bin_folder.mkdir()
  # A version manager's shim that answers for a version it does not have.
  program(bin_folder / "python3.12", "exit 127")
  for name in ("python3.13", "python3.11"):
    shutil.copy(repo / "python", bin_folder / name)
  path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
  result, calls = setup(PYTHON="", PATH=path)
  assert result.returncode == 0, result.stderr
  assert calls == ["venv", "pip .[train]"]
  assert "making .venv with python3.11" in result.stderr


def test_the_hardware_adds_its_build(setup):
  assert setup(SCM_DEVICE="tpu")[1][-1] == "pip .[tpu,train]"
  assert setup(SCM_DEVICE="cpu")[1] == []  # it stays
  assert setup(SCM_DEVICE="cuda12")[1] == ["pip .[cuda12,tpu,train]"]


def test_the_cuda_builds_exclude_each_other(setup, repo, program):
  setup(SCM_DEVICE="cuda12")
  # A newer driver runs it as well, unless the newer build is asked for.
  program(repo / "nvidia-smi", "echo 580.65.06, 9.0")
  path = f"{repo}{os.pathsep}{os.environ['PATH']}"
  assert setup(SCM_DEVICE="", PATH=path)[1] == []
  calls = setup(SCM_DEVICE="cuda13")[1]
  assert calls == ["venv", "pip .[cuda13,train]"]
  calls = setup("plan-gpu", SCM_DEVICE="cuda12")[1]
  assert calls == ["venv", "pip .[cuda12,plan-gpu,train]"]


def test_an_unknown_device_is_one_line(setup):
  result, calls = setup(SCM_DEVICE="gpu")
  assert (result.returncode, calls) == (2, [])
  assert result.stderr.count("\n") == 1 and "cuda13" in result.stderr
