"""A small config with a sweep, and a stand-in for the trainings it starts."""

import pathlib
import sys
from collections.abc import Callable

import pytest

CONFIG = """
from scm_jax.configuration import parse_arg
from scm_jax.defaults import get_defaults
from scm_jax.sweeping.points import Point, grid, points, seeds

def get_config(arg=""):
  choice = parse_arg(arg, run=("teacher", "sct", "scd"), tiny=False)
  config = get_defaults()
  config.run, config.total_steps = choice.run, 3 if choice.tiny else 5
  config.data.name = "fake"
  return config

def sweep():
  teacher = Point("teacher", arg="run=teacher")
  sampling = ({"steps": (1, 2)}, {"steps": 2, "t_mid": 0.8})
  students = points(
    grid({"objective.tangent_c": (0.1, 1.0)}),
    arg="run=scd", teacher="teacher", prefix="scd", sampling=sampling,
  )
  return seeds([teacher, *students], 2)
"""


@pytest.fixture
def config(tmp_path: pathlib.Path) -> pathlib.Path:
  """Writes a config whose sweep has a teacher, two students and two seeds."""
  folder = tmp_path / "configs"
  folder.mkdir()
  (folder / "small.py").write_text(CONFIG)
  return folder / "small.py"


@pytest.fixture
def program(monkeypatch, tmp_path) -> pathlib.Path:
  """Makes sweeps start `program.py`; returns the file that lists its calls.

  A run whose folder has the name in FAIL fails; one in HANG waits for SIGTERM.
  """
  from scm_jax.sweeping import launchers

  calls = tmp_path / "calls"
  stub = (
    sys.executable,
    "-SE",
    str(pathlib.Path(__file__).parent / "program.py"),
  )
  monkeypatch.setattr(launchers, "PROGRAM", stub)
  monkeypatch.setenv("CALLS", str(calls))
  return calls


@pytest.fixture
def sweep(program, config, tmp_path, capsys, caplog) -> Callable:
  """Returns `sweep(*flags)`: exit code, stdout, log and stderr, and calls."""
  from scm_jax.cli import main

  def run(*flags: str, workdir=tmp_path / "sweep"):
    program.write_text("")
    capsys.readouterr()
    caplog.clear()
    argv = ["sweep", f"--config={config}:tiny", f"--workdir={workdir}", *flags]
    code = main.main(argv)
    out, err = capsys.readouterr()
    return code, out, caplog.text + err, program.read_text().splitlines()

  return run
