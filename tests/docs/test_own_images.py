"""The commands of docs/own_images.md, one after another, on drawn pictures."""

import contextlib
import json
import pathlib
import runpy

import numpy as np
import pytest
from PIL import Image

import scm_jax
from scm_jax.cli import main

from .commands import blocks, commands

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "own_images.md"
PICTURES = 300  # more than there are features of pixels, for the distances
# What is left out takes long to compile or train, and is shown elsewhere.
SHORTER = {
  "train": ["--config.network.channel_mult=(1,)"],
  "evaluate": ["--features=pixels"],
  "export": ["--formats=safetensors"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Where the page was followed, with tiny networks and few pictures."""
  folder = tmp_path_factory.mktemp("own")
  for name in ("configs", "examples"):
    (folder / name).symlink_to(ROOT / name)
  with contextlib.chdir(folder):
    for line in commands(PAGE):
      program, *words = (w.replace("classes=3", "classes=3,tiny") for w in line)
      if words[:1] == ["serve"]:
        continue  # until Ctrl-C; tests/serving does it
      if program == "scm-jax":
        assert main.main([*words, *SHORTER.get(words[0], [])]) == 0, line
      elif program == "python":
        example = runpy.run_path(words[0])
        example["main"](pathlib.Path(words[1]), PICTURES)
  return folder


@pytest.mark.slow
def test_the_pictures_are_as_many_as_asked_for(folder):
  for name, num in (("student-2", 60), ("student-1", 60), ("teacher-32", 60)):
    with np.load(folder / "runs" / "shapes" / name / "samples.npz") as file:
      assert file["samples"].shape == (num, 16, 16, 3)
      labels = {2} if name == "student-1" else {0, 1, 2}
      assert set(file["labels"].tolist()) == labels
    with Image.open(folder / "runs" / "shapes" / name / "grid.png") as grid:
      assert grid.mode == "RGB"


@pytest.mark.slow
def test_the_report_compares_teacher_and_student(folder):
  report = json.loads((folder / "runs" / "shapes" / "report.json").read_text())
  found = {(run["objective"], run["steps"]) for run in report["runs"]}
  assert found >= {("teacher", 1), ("scd", 1), ("scd", 2)}
  for run in report["runs"]:
    assert np.isfinite(run["fd"]["pixels"])


@pytest.mark.slow
def test_the_export_draws_what_the_run_draws(folder):
  names = {}
  with contextlib.chdir(folder):
    exec("".join(blocks(PAGE, "python")), names)
  student = scm_jax.load(folder / "runs" / "shapes" / "student")
  expected = student.sample([0, 1, 2], steps=2, seed=7)
  np.testing.assert_array_equal(names["images"], expected)


@pytest.mark.slow
def test_pictures_without_classes(folder):
  """As the page says: all in one folder, and no `classes=`."""
  flat = folder / "flat"
  flat.mkdir()
  for number, path in enumerate(sorted(folder.glob("photos/*/*.png"))[:40]):
    (flat / f"{number}.png").symlink_to(path)
  config = f"--config={ROOT}/configs/images.py:"
  out, run = folder / "flat-datasets", folder / "flat-teacher"
  argv = ["prepare", f"{config}size=16", f"--source={flat}", f"--out={out}"]
  assert main.main(argv) == 0
  argv = ["train", f"{config}tiny", f"--workdir={run}", *SHORTER["train"]]
  assert main.main([*argv, f"--config.data.data_dir={out}"]) == 0
  assert scm_jax.load(run).sample(num=2).shape == (2, 16, 16, 3)
