"""Runs as training and evaluation leave them, with scores that are known."""

import json
import pathlib
import types
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from scm_jax.reporting import records as report

# channels: parameters, and how far scores are from those of the smallest.
SIZES = {8: (20_000, 1.0), 16: (80_000, 0.7), 32: (320_000, 0.5)}
TEACHER = {63: 1.0, 1: 40.0}  # distances of the smallest by evaluations
STUDENTS = {"scd": {1: 1.5, 2: 1.2, 4: 1.1}, "sct": {1: 1.8, 2: 1.3, 4: 1.25}}


def record(
  objective: str, steps: int, fd: dict[str, float], params: int, **extra: Any
) -> dict[str, Any]:
  """As `scm-jax evaluate` makes it."""
  nfe = 2 * steps - 1 if objective == "teacher" else steps
  kind = {"teacher": "teacher", "scd": "sCD", "sct": "sCT"}[objective]
  return report.run_record(
    f"{kind}, {steps} step{'s' * (steps > 1)}",
    objective,
    steps=steps,
    nfe=nfe,
    params=params,
    scores={
      "fd": fd,
      "kid": {name: value / 100 for name, value in fd.items()},
      "precision": dict.fromkeys(fd, 0.75),
      "num": 1797,
    },
    **{"seed": 0, "guidance": 1.0, "ema": "0.100", **extra},
  )


def write_run(
  folder: pathlib.Path,
  records: Sequence[dict[str, Any]],
  teacher: str = "",
  **fields: Any,
) -> pathlib.Path:
  """A workdir with its config and its own `report.json`."""
  config = {
    "seed": 0,
    "data": {"name": "scm_digits", "split": "train"},
    "network": {"channels": 16},
    "objective": {"P_mean": -1.0},
    "teacher": teacher,
    **fields,
  }
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  runs = [{**r, "workdir": str(folder), "training_step": 9} for r in records]
  reference = {"dataset": config["data"]["name"], "images": 1797}
  report.write_report(
    folder / "report.json", report.make_report(runs, reference)
  )
  return folder


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A folder of teachers and students at three sizes, with three seeds.

  A score of seed s is 1 + (s - 1) / 10 times the one in the tables above. Of
  the middle size there is also a student with another objective.
  """
  home = tmp_path_factory.mktemp("family")
  for channels, (params, share) in SIZES.items():
    for seed in range(3):
      factor = share * (1 + (seed - 1) / 10)
      own = {"network": {"channels": channels}, "seed": seed}
      at = home / f"teacher_{channels}_seed={seed}"
      write_run(at, _records("teacher", TEACHER, factor, params), **own)
      for run, scores in STUDENTS.items():
        write_run(
          home / f"{run}_{channels}_seed={seed}",
          _records(run, scores, factor, params),
          str(at),
          **own,
        )
      if channels == 16:
        write_run(
          home / f"scd_16_raw_seed={seed}",
          _records("scd", {1: 9.0}, factor, params),
          str(at),
          objective={"P_mean": -1.0, "tangent_norm": "none"},
          **own,
        )
  return home


def _records(
  run: str, scores: dict[int, float], factor: float, params: int
) -> list[dict[str, Any]]:
  steps = {n: (n + 1) // 2 if run == "teacher" else n for n in scores}
  return [
    record(
      run, steps[n], {"pixels": 2 * fd * factor, "classifier": fd * factor},
      params,
    )
    for n, fd in scores.items()
  ]  # fmt: skip


@pytest.fixture(scope="session")
def make() -> types.SimpleNamespace:
  """`make.record(...)` and `make.run(folder, records, teacher, **fields)`."""
  return types.SimpleNamespace(record=record, run=write_run)


@pytest.fixture
def refused(refused: Callable[..., str]) -> Callable[..., str]:
  """`refused(code, *argv)`: the one line with which a report ends so."""
  return lambda code, *argv: refused(code, "report", *argv)
