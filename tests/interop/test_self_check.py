"""The check before training, run by the commands of docs/evaluation.md."""

import json
import pathlib
import pickle
import re
import shlex
import shutil
from collections.abc import Iterator

import numpy as np
import pytest

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "evaluation.md"
FEATURES = 128  # of the forged Inception
NUM = 12
# What takes hours, and the file that is not forged in its own format.
SMALLER = {
  "--num=50000": f"--num={NUM}",
  "--teacher-steps=32": "--teacher-steps=2",
  "pt_inception-2015-12-05-6726825d.pth": "inception.safetensors",
}


def commands() -> Iterator[list[str]]:
  """Yields the arguments of each command in the docs' section, made smaller."""
  (section,) = re.findall(
    r"^## A check before training\n(.*?)(?=^## )", DOCS.read_text(), re.M | re.S
  )
  (block,) = re.findall(r"```sh\n(.*?)```", section, re.S)
  for line in block.replace("\\\n", " ").splitlines():
    for full, small in SMALLER.items():
      line = line.replace(full, small)
    if words := shlex.split(line):
      assert words[0] == "scm-jax"
      yield words[1:]


@pytest.fixture(scope="module")
def files(
  forgery,
  small,
  write_pickle,
  autoencoder_folder,
  inception_file,
  tmp_path_factory,
) -> pathlib.Path:
  """Returns a folder of the files that the commands name, random weights."""
  folder = tmp_path_factory.mktemp("check")
  latents = {"in_channels": 4}
  for name, config, encoder in (
    ("img64-s-1073741-0.075", small(in_channels=3), forgery.pixels()),
    ("img512-s-2147483-0.130", small(**latents), forgery.latents()),
    ("img512-s-2147483-0.025", small(**latents), forgery.latents()),
    (
      "img512-xs-uncond-2147483-0.025",
      small(**latents, num_classes=0),
      forgery.latents(),
    ),
  ):
    path = folder / f"edm2-{name}.pkl"
    write_pickle(path, config, encoder, seed=len(name))
  weights = "diffusion_pytorch_model.safetensors"
  for source in (autoencoder_folder / weights, inception_file):
    shutil.copy(source, folder)
  config = autoencoder_folder / "config.json"  # how many groups it has
  shutil.copy(config, folder)
  rng = np.random.default_rng(0)
  for name in ("img64.pkl", "img512.pkl"):
    x = rng.normal(size=(400, FEATURES))
    moments = {"mu": x.mean(0), "sigma": np.cov(x.T)}
    (folder / name).write_bytes(pickle.dumps({"fid": moments}))
  return folder


@pytest.mark.slow
def test_the_documented_commands_score_public_networks(
  printed, files, monkeypatch, caplog
):
  monkeypatch.chdir(files)
  for words in commands():
    few = ["--allow-few"] if words[0] == "evaluate" else []
    printed(*words, *few)
  reports = {
    path.parent.name: json.loads(path.read_text())
    for path in files.glob("check/*/report.json")
  }
  assert reports.keys() == {"img64", "img512", "img512-guided"}
  for name, report in reports.items():
    [run] = report["runs"]
    guided = name == "img512-guided"
    assert run["guidance"] == (1.4 if guided else 1.0)
    assert run["nfe"] == (6 if guided else 3)
    found = [run[key] for key in ("solver", "sigma_max", "labels", "num")]
    assert found == ["heun", 80.0, "random", NUM]
    assert run["seeds"] == [0, 1, 2]
    values = [found["fd"]["inception"] for found in run["by_seed"]]
    assert len(set(values)) == 3 and np.isfinite(values).all()
    assert run["fd_min"]["inception"] == min(values)
    assert report["reference"]["dataset"] == f"{name.split('-')[0]}.pkl"
    # Images are those of the autoencoder, against real ones.
    assert not any("latents" in line for line in run["warnings"])
  assert "decoded" not in caplog.text
