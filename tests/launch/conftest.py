"""A copy of the launch scripts in a folder of its own, with stub programs."""

import pathlib
import shutil
import subprocess
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
      timeout=60,
      **{"cwd": "/", **options},
    )

  return run
