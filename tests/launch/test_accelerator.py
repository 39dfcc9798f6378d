"""accelerator.sh finds its Python, installs wheels and passes its flags on."""

import pytest

# Stands in for Python: tells what it was asked.
PYTHON = 'echo "$PYTHONPATH: $*"'


@pytest.fixture
def accelerator(repo, bash, program, tmp_path):
  """`accelerator(*flags)`: the result, with a stub of .venv's Python."""
  program(repo / ".venv" / "bin" / "python", PYTHON)
  return lambda *flags: bash(repo / "launch" / "accelerator.sh", *flags)


def test_flags_are_passed_on(accelerator, repo, tmp_path):
  out = tmp_path / "results"
  result = accelerator("--minutes=9.5", f"--out={out}", "--tiny")
  assert result.returncode == 0
  path, _, command = result.stdout.partition(": ")
  assert path.split(":")[0] == str(repo)
  assert command.split()[:2] == ["-m", "scm_jax.acceptance.main"]
  assert set(command.split()[2:]) == {
    "--minutes=9.5",
    f"--out={out.resolve()}",
    "--tiny",
  }


def test_wheels_are_installed_for_this_command_alone(accelerator, tmp_path):
  wheels, out = tmp_path / "wheels", (tmp_path / "results").resolve()
  wheels.mkdir()
  (wheels / "some-1-py3-none-any.whl").write_text("")
  result = accelerator(f"--wheels={wheels}", f"--out={out}")
  install, run = result.stdout.splitlines()
  assert "--no-index" in install and f"{wheels}/some-1" in install
  assert f"--target {out}/packages" in install
  assert f"{out}/packages" in run.partition(": ")[0].split(":")


@pytest.mark.parametrize("flag", ["--minutes=soon", "--wheels=/no/such", "now"])
def test_bad_arguments(accelerator, flag):
  result = accelerator(flag)
  assert (result.returncode, result.stdout) == (2, "")
  assert flag.split("=")[-1] in result.stderr
