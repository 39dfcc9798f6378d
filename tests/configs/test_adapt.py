"""Each family from its published form: teacher, adaptation, sCD, samples.

By the commands that users type, on built-in data. Public EDM2 files instead of
a teacher of our own are in tests/interop/test_import.py.
"""

import json
import pathlib

import numpy as np
import pytest

from scm_jax.cli import main

ROOT = pathlib.Path(__file__).parents[2]
PUBLISHED = {"cifar10": "edm", "imagenet64": "edm2", "imagenet512": "edm2"}
PUBLISHED |= {"imagenet256": "sit"}
ARGUMENTS = {"imagenet512": ",latents=edm2", "imagenet256": ",layers=sit"}
# Of one level, which halves the compilation.
SHALLOW = ("--config.network.channel_mult=(1,)",)


def train(config, folder, *flags):
  shallow = () if "imagenet256" in config else SHALLOW
  config = f"--config={ROOT}/configs/{config},tiny"
  argv = ["train", config, f"--workdir={folder}", *shallow, *flags]
  assert main.main(argv) == 0


def last_metrics(folder):
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return json.loads(lines[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_adaptation_and_distillation(name, tmp_path, caplog):
  teacher, adapted = tmp_path / "teacher", tmp_path / "adapted"
  train(
    *(f"{name}.py:run=teacher{ARGUMENTS.get(name, '')}", teacher),
    f"--config.network.form={PUBLISHED[name]}",
  )

  follow = f"--config.teacher={teacher}"
  with caplog.at_level("INFO"):
    train(f"adapt.py:run=teacher,data={name}", adapted, follow)
  if name != "imagenet256":  # which keeps its form
    assert "negated" in caplog.text and "fresh" in caplog.text
  assert last_metrics(adapted)["gradient_norm"] > 0

  begin = f"--config.start={adapted}"
  train(f"adapt.py:run=scd,data={name}", tmp_path / "scd", follow, begin)
  metrics = last_metrics(tmp_path / "scd")
  assert metrics["step"] == 8 and np.isfinite(metrics["loss"])
  assert metrics["nonfinite_samples"] == metrics["nonfinite_gradients"] == 0

  assert main.main(["sample", f"--workdir={tmp_path}/scd", "--num=4"]) == 0
  with np.load(tmp_path / "scd" / "samples" / "samples.npz") as file:
    assert len(file["samples"]) == 4 and file["samples"].std() > 1
