"""`tiny` takes each config's whole way: teacher, students, samples.

By the commands that users type, on built-in data.
"""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from scm_jax.cli import main
from scm_jax.evaluation.dataset import ImageDataset
from scm_jax.training import resolve, workdir

ROOT = pathlib.Path(__file__).parents[2]
SIDES = {"cifar10": 16, "imagenet64": 16, "imagenet256": 8, "imagenet512": 8}
LATENTS = ("imagenet256", "imagenet512")
RUNS = ("teacher", "sct", "scd")


@pytest.fixture(scope="module", params=SIDES)
def chain(
  request, autoencoder_folder, tmp_path_factory
) -> tuple[str, pathlib.Path]:
  """A config's name, and a folder with its three runs and a student's samples.

  Of one level, which halves the compilation; `tiny` itself has two.
  """
  name = request.param
  folder = tmp_path_factory.mktemp(name)
  for run in RUNS:
    flags = [f"--config={ROOT}/configs/{name}.py:run={run},tiny"]
    if name != "imagenet256":
      flags.append("--config.network.channel_mult=(1,)")
    if run != "teacher":
      flags.append(f"--config.teacher={folder}/teacher")
    if name in LATENTS and run == "sct":
      flags.append(f"--config.data.autoencoder={autoencoder_folder}")
    assert main.main(["train", f"--workdir={folder}/{run}", *flags]) == 0
  sample = ["sample", f"--workdir={folder}/scd", "--num=10"]
  if name in LATENTS:
    sample.append("--guidance=1.5")
  assert main.main(sample) == 0
  return name, folder


@pytest.mark.slow
def test_runs_end_and_learn_something_finite(chain):
  _, folder = chain
  for run in RUNS:
    lines = (folder / run / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [line["step"] for line in metrics] == [2, 4, 6, 8]
    for line in metrics:
      assert np.isfinite(line["loss"])
      assert line["nonfinite_samples"] == line["nonfinite_gradients"] == 0
    assert metrics[-1]["gradient_norm"] > 0


@pytest.mark.slow
def test_students_start_from_the_papers_average(chain):
  """Of a width that the teacher may not track: then from its snapshots."""
  name, folder = chain
  expected = {
    "cifar10": "500000",
    "imagenet64": "0.075",
    "imagenet256": "0.050",
    "imagenet512": "0.025",
  }
  for run in ("sct", "scd"):
    record = json.loads((folder / run / "teacher.json").read_text())
    assert record["ema"] == expected[name]
    assert record["step"] == 8


@pytest.mark.slow
def test_samples_are_colour_images(chain):
  name, folder = chain
  side = SIDES[name]
  with np.load(folder / "scd" / "samples" / "samples.npz") as file:
    images, labels = file["samples"], file["labels"]
  assert images.shape == (10, side, side, 3) and images.dtype == np.uint8
  assert images.std() > 1
  assert len(labels) == (0 if name == "cifar10" else 10)


@pytest.mark.slow
def test_an_autoencoder_decodes_a_runs_grids(chain):
  """Without one they are previews of 8x8, shown larger."""
  name, folder = chain
  if name not in LATENTS:
    return
  for run in RUNS:
    with Image.open(next((folder / run / "samples").glob("*.png"))) as grid:
      first = np.asarray(grid)[2:66, 2:66]
    assert (first[::8] == first[7::8]).all() == (run != "sct")


@pytest.mark.slow
def test_only_the_student_of_latents_takes_a_scale(chain, capfd):
  name, folder = chain
  for run in ("sct", "scd"):
    model, _ = workdir.load(folder / run)
    embedding = model.params["denoiser"]["embedding"]
    if name in LATENTS and run == "scd":
      [weights] = embedding["emb_guidance"].values()
      assert np.abs(weights).max() > 0  # it starts at zero, and learns
      continue
    assert "emb_guidance" not in embedding
    argv = ["sample", f"--workdir={folder}/{run}", "--guidance=1.5"]
    assert main.main(argv) == 2
    assert "scale 1.5 cannot be used" in capfd.readouterr().err


def test_tiny_is_the_same_code_path(load):
  """What makes a run another program than the full one does not change."""
  kept = ("form", "family", "double_norm", "dropout", "dtype", "attention")
  for name in SIDES:
    for run in RUNS:
      full, tiny = load(name, f"run={run}"), load(name, f"run={run},tiny")
      resolve.check(tiny)
      for field in kept:
        assert tiny.network[field] == full.network[field]
      for group in ("objective", "optimizer"):
        changed = {k for k in full[group] if full[group][k] != tiny[group][k]}
        assert changed <= {"warmup_steps", "decay_steps", "rampup_images"}
      assert tiny.ema == full.ema and tiny.teacher_ema == full.teacher_ema
      assert tiny.data.kind == full.data.kind
      assert tiny.data.mean == full.data.mean
      assert bool(tiny.data.num_classes) == bool(full.data.num_classes)
      assert bool(tiny.snapshot_every) == bool(full.snapshot_every)


@pytest.mark.slow
def test_latents_are_scored_by_their_previews(chain):
  name, folder = chain
  model, about = workdir.load(folder / "scd")
  data = about["config"].data
  reference = ImageDataset(data, model, f"{data.name}:train[:20]")
  images, labels = reference.everything()
  assert images.shape == (20, SIDES[name], SIDES[name], 3)
  assert images.dtype == np.uint8 and images.std() > 20
  assert labels.shape == (20,)
