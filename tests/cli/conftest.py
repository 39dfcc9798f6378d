"""Two runs of a small digits config, by the commands that users type."""

import json
import pathlib
import shutil

import pytest

from scm_jax.cli import main


@pytest.fixture(scope="session")
def runs(data_dir, flags, shared, shared_steps) -> pathlib.Path:
  """A folder with the workdirs `teacher` and `scd`, trained."""

  def train(folder: pathlib.Path) -> None:
    for run in ("teacher", "scd"):
      teacher = f"--config.teacher={folder}/teacher"
      argv = flags(run, teacher) if run != "teacher" else flags(run)
      with shared_steps():
        assert main.main(["train", f"--workdir={folder}/{run}", *argv]) == 0

  return shared("runs", train)


@pytest.fixture(scope="session")
def score_cache(tmp_path_factory) -> pathlib.Path:
  """Where evaluations find the reference's statistics and the classifier."""
  return tmp_path_factory.mktemp("score_cache")


@pytest.fixture
def configured(runs, tmp_path):
  """`configured(run, **fields)`: a copy whose config has them."""

  def make(run, section="sample", **fields):
    folder = tmp_path / f"{run}-{section}"
    shutil.copytree(runs / run, folder)
    config = json.loads((folder / "config.json").read_text())
    config[section] |= fields
    (folder / "config.json").write_text(json.dumps(config))
    return folder

  return make
