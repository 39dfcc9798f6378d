"""The command `evaluate --images`: scores of images from anywhere."""

import json

import numpy as np
import pytest
from PIL import Image

NUM = 150
_SCORES = "fd kid precision recall density coverage num_kept num".split()


@pytest.fixture(scope="module")
def drawn(runs, score_cache, tmp_path_factory):
  """The report of a workdir, and the file of the samples that it kept."""
  from scm_jax.cli import main

  out = tmp_path_factory.mktemp("drawn")
  argv = [f"--workdir={runs}/scd", "--steps=2", f"--num={NUM}"]
  argv += ["--features=pixels", "--save-samples", f"--cache={score_cache}"]
  assert main.main(["evaluate", *argv, f"--out={out}"]) == 0
  [run] = json.loads((out / "report.json").read_text())["runs"]
  return run, out / "samples" / "scd_2_steps_seed_0.npy"


def _argv(path, out):
  more = "--reference=scm_digits", "--features=pixels", f"--out={out}"
  return ["evaluate", f"--images={path}", *more]


@pytest.mark.slow
def test_images_score_as_the_samples_that_they_are(
  drawn, printed, score_cache, tmp_path
):
  """Whatever holds them, and whatever the size of a batch."""
  run, file = drawn
  folder = tmp_path / "pictures"
  folder.mkdir()
  for index, image in enumerate(np.load(file)):
    Image.fromarray(image[..., 0]).save(folder / f"{index:03}.png")
  for path, *more in ((file, "--batch-size=64"), (folder, "--save-every=1")):
    argv = [*_argv(path, tmp_path / "out"), f"--cache={score_cache}"]
    text = printed(*argv, *more)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    [found] = report["runs"]
    for key in _SCORES:
      assert found[key] == pytest.approx(run[key], rel=1e-6)
    assert (found["objective"], found["name"]) == ("images", path.name)
    assert found["images"] == str(path)
    for key in ("steps", "nfe", "params", "effective_compute", "labels"):
      assert found[key] is None
    assert "labels" not in report["reference"]
    assert text.startswith("run") and "\n" + path.name in text
  before = (tmp_path / "out" / "report.png").read_bytes()
  printed(*argv, *more)  # up to date
  assert (tmp_path / "out" / "report.png").read_bytes() == before
  printed(
    "report", f"--report={tmp_path}/out/report.json", f"--out={tmp_path}/page"
  )


@pytest.mark.parametrize(
  "more, code, said",
  [
    (["--reference="], 2, "--images needs something to compare with"),
    (["--workdir=run"], 2, "either --workdir or --images"),
    (["--images="], 2, "either --workdir or --images"),
    (["--out="], 2, "--images needs --out"),
    (["--then=run"], 2, "--then says how a network draws"),
    (["--steps=1"], 2, "--steps says how a network draws"),
    (["--seeds=0,1"], 2, "--seeds says how a network draws"),
    (["--num=81"], 2, "pictures.npy holds 80 images"),
    (["--num=60"], 1, "features 'pixels': 60 samples"),
    (["--images=nowhere"], 1, "--images=nowhere is no folder"),
    (["--features=classifier", "--reference={file}"], 2, "is trained on a"),
    (["--reference=scm_digit"], 1, "dataset 'scm_digit'"),
    (["--reference=scm_patches"], 1, "cannot be compared"),
  ],
)
def test_mistakes(more, code, said, refused, tmp_path, data_dir):
  file, out = tmp_path / "pictures.npy", tmp_path / "out"
  rng = np.random.default_rng(0)
  np.save(file, rng.integers(0, 256, (80, 8, 8, 1), np.uint8))
  more = [flag.format(file=file) for flag in more]
  assert said in refused(code, *_argv(file, out), *more)
  assert not (out / "report.json").exists()
