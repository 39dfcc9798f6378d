"""Workdirs and exports of an earlier version load, draw and go on training.

Each archive holds the runs of one network family, trained for 60 steps by
version 0.1.0: their workdirs, their exports, the images that `scm-jax sample`
drew from them, and the losses of two more steps.
"""

import json
import pathlib
import tarfile

import numpy as np
import pytest

import scm_jax
from scm_jax.cli import main

pytestmark = pytest.mark.integration

RUNS = {"unet": ("teacher", "scd", "sct"), "ddpmpp": ("teacher", "scd")}
EVERY = [(family, run) for family, runs in RUNS.items() for run in runs]
# The sampler's steps with which the images were drawn.
STEPS = {"teacher": 8, "scd": 2, "sct": 2}


@pytest.fixture
def unpacked(tmp_path):
  """`unpacked(family)`: the folder with the archive's content."""

  def unpack(family):
    archive = pathlib.Path(__file__).with_name(f"{family}.tar.xz")
    with tarfile.open(archive) as file:
      file.extractall(tmp_path, filter="data")
    return tmp_path

  return unpack


CONFIG = """
from configs import digits

def get_config(arg=""):
  config = digits.get_config(arg)
  config.network.family = "{family}"
  return config
"""


@pytest.mark.parametrize("kind", ["workdir", "export"])
@pytest.mark.parametrize(("family", "run"), EVERY)
def test_draws_the_same_images(unpacked, family, run, kind):
  folder = unpacked(family)
  drawn = np.load(folder / f"{run}.npz")
  path = folder / (run if kind == "workdir" else f"export-{run}")
  images = scm_jax.load(path).sample(drawn["labels"], steps=STEPS[run])
  assert images.shape == drawn["samples"].shape
  # Other processors and compilers round otherwise.
  far = np.abs(images.astype(int) - drawn["samples"].astype(int))
  assert far.max() <= 1 and np.mean(far > 0) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("family", "run"), EVERY)
def test_training_goes_on(unpacked, data_dir, family, run, tmp_path):
  folder, file = unpacked(family), tmp_path / "config.py"
  file.write_text(CONFIG.format(family=family))
  flags = [f"--config={file}:run={run},tiny", *CHANGES]
  if run != "teacher":
    flags.append(f"--config.teacher={folder}/teacher")
    flags.append("--config.objective.warmup_steps=20")
  if run == "scd":  # guided by its teacher without labels
    flags += ["--config.guide=", "--config.objective.guidance_scale=1.15"]
  before = (folder / run / "metrics.jsonl").read_text().splitlines()
  assert main.main(["train", f"--workdir={folder / run}", *flags]) == 0
  after = (folder / run / "metrics.jsonl").read_text().splitlines()
  assert after[: len(before)] == before
  losses = [json.loads(line)["loss"] for line in after[len(before) :]]
  expected = json.loads((folder / "losses.json").read_text())[run]
  np.testing.assert_allclose(losses, expected, rtol=1e-4)


CHANGES = (
  "--config.network.channels=4",
  "--config.network.channel_mult=(1,)",
  "--config.network.num_blocks=1",
  "--config.network.channels_per_head=4",
  "--config.batch_size=16",
  "--config.ema=(0.1,)",
  "--config.optimizer.learning_rate=0.02",
  "--config.optimizer.rampup_images=160",
  # These differ from the first 60 steps.
  "--config.total_steps=62",
  "--config.log_every=1",
)
