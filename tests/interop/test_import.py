"""The command `import-edm2`, and the use of the workdir that it makes."""

import json
import os
import pathlib

import numpy as np
import pytest

import scm_jax
from scm_jax import networks
from scm_jax.training import workdir

ADAPT = pathlib.Path(__file__).parents[2] / "configs" / "adapt.py"
# What `tiny` makes of ImageNet 512's network, in EDM2's form, and shallower.
TINY = {"in_channels": 4, "channel_mult_emb": 4}
SHALLOWER = (
  "--config.network.channel_mult=(1,)",
  "--config.network.attn_resolutions=()",
  "--config.network.dtype=float32",
  "--config.total_steps=2",
  "--config.sample.num=4",
)
NAME = "edm2-img512-s-2147483-0.130.pkl"


@pytest.fixture(scope="module")
def pickles(forgery, small, write_pickle, tmp_path_factory):
  """Returns a folder of a network, its guidance network, and two others."""
  folder = tmp_path_factory.mktemp("pickles")
  latents = forgery.latents()
  write_pickle(folder / NAME, small(**TINY), latents)
  guide = small(**TINY | {"channel_mult_emb": 1, "num_classes": 0})
  write_pickle(folder / "uncond.pkl", guide, latents, seed=1)
  write_pickle(folder / "pixels.pkl", small())
  write_pickle(folder / "pixels-no-label.pkl", small(num_classes=0))
  return folder


@pytest.fixture(scope="module")
def imported(pickles, tmp_path_factory):
  """Returns the workdir of the network and its guidance network."""
  from scm_jax.cli import main

  out = tmp_path_factory.mktemp("runs") / "edm2"
  argv = ["import-edm2", str(pickles / NAME), f"--out={out}"]
  assert main.main([*argv, f"--guide={pickles}/uncond.pkl"]) == 0
  return out


def test_what_it_says_and_writes(command, pickles, tmp_path):
  out = tmp_path / "edm2"
  code, said, err = command("import-edm2", pickles / NAME, f"--out={out}")
  assert (code, err) == (0, "")
  assert "latents of 8x8x4, 10 classes" in said and str(out) in said
  config = json.loads((out / "config.json").read_text())
  assert config["run"] == "teacher" and config["ema"] == [0.13]
  assert config["data"]["mean"] == [5.81, 3.25, 0.12, -2.15]
  assert config["data"]["image_range"] == [0.0, 1.0]
  assert config["network"]["channel_mult"] == [1]
  assert config["network"]["channel_mult_emb"] == 4
  assert not (out / "guide").exists()
  model, about = workdir.load(out)
  assert about["step"] == 1 << 20 and about["ema"] == "0.130"
  assert model.kind == "diffusion" and model.guidance_network is None


def test_the_guide_is_stored_beside(imported):
  model, _ = workdir.load(imported)
  assert model.guidance_network.config.channel_mult_emb == 1
  assert model.guidance_network.config.num_classes == 0
  guidance_parameters = networks.parameter_count(model.guidance_params)
  assert guidance_parameters < model.parameters
  assert model.evaluations(32, guidance=1.4) == 126


def sample(printed, run, out, *argv):
  argv = f"--workdir={run}", f"--out={out}", "--num=4", *argv
  said = printed("sample", *argv)
  return np.load(out / "samples.npz")["samples"].astype(int), said


def test_samples(printed, imported, tmp_path):
  plain, said = sample(printed, imported, tmp_path / "a", "--steps=3")
  assert "5 network evaluations each" in said and plain.std() > 5
  guided, said = sample(
    printed, imported, tmp_path / "b", "--steps=3", "--guidance=2"
  )
  assert "10 network evaluations each" in said
  assert np.abs(guided - plain).mean() > 1


@pytest.mark.slow
def test_evaluation(printed, refused, pickles, tmp_path):
  out = tmp_path / "run"
  printed("import-edm2", pickles / "pixels.pkl", f"--out={out}")
  argv = f"--workdir={out}", "--num=80", "--features=pixels"
  argv = *argv, "--teacher-steps=2"
  assert "--reference" in refused(1, "evaluate", *argv)
  printed("evaluate", *argv, "--reference=scm_digits")
  [run] = json.loads((out / "report.json").read_text())["runs"]
  assert run["objective"] == "teacher" and run["nfe"] == 3


def test_without_a_guidance_network_there_is_no_guidance(
  printed, refused, pickles, tmp_path
):
  """Python and both tasks that draw refuse the scale with the same reason."""
  for name, reason in (
    ("pixels", "was always given labels in training"),
    ("pixels-no-label", "takes no labels"),
  ):
    out = tmp_path / name
    printed("import-edm2", pickles / f"{name}.pkl", f"--out={out}")
    why = scm_jax.load(out).guidance_refusal()
    assert reason in why
    argv = f"--workdir={out}", "--guidance=2", f"--out={tmp_path}/x"
    assert why in refused(2, "sample", *argv)
    argv = *argv, "--features=pixels", "--reference=scm_digits"
    assert why in refused(2, "evaluate", *argv)
  assert not (tmp_path / "x").exists()


def test_autoguidance_without_labels(printed, pickles, tmp_path):
  out = tmp_path / "run"
  file = pickles / "pixels-no-label.pkl"
  printed("import-edm2", file, f"--out={out}", f"--guide={file}")
  plain, _ = sample(printed, out, tmp_path / "a", "--steps=2")
  guided, said = sample(
    printed, out, tmp_path / "b", "--steps=2", "--guidance=3"
  )
  # Guided by itself, a network stays what it is.
  assert np.abs(guided - plain).max() <= 1 and "6 network evaluations" in said


def test_mistakes(refused, pickles, imported, forgery, tmp_path):
  out = tmp_path / "out"
  line = lambda *argv: refused(1, "import-edm2", *argv, f"--out={out}")
  assert "No such file" in line(tmp_path / "none.pkl")
  hostile = tmp_path / "hostile.pkl"
  call = forgery.Reduces(os.system, f"touch {tmp_path}/executed")
  hostile.write_bytes(forgery.plain({"ema": call}))
  assert "names posix.system" in line(hostile)
  whole = (pickles / NAME).read_bytes()
  cut = tmp_path / "cut.pkl"
  cut.write_bytes(whole[: len(whole) // 2])
  assert "cut.pkl" in line(cut)
  assert "names posix.system" in line(pickles / NAME, f"--guide={hostile}")
  assert not (tmp_path / "executed").exists()

  line = lambda *argv: refused(2, "import-edm2", *argv, f"--out={out}")
  said = line(pickles / NAME, f"--guide={pickles}/pixels.pkl")
  assert "config.data.channels is 1" in said
  no_label = pickles / "pixels-no-label.pkl"
  said = line(no_label, f"--guide={pickles}/pixels.pkl")
  assert "num_classes is 10" in said
  # Nothing was written, and nothing that is there is written over.
  files = {"hostile.pkl", "cut.pkl"}
  assert {path.name for path in tmp_path.iterdir()} == files
  argv = pickles / "pixels.pkl", f"--out={imported}"
  assert "is not empty" in refused(1, "import-edm2", *argv)


def test_tensors_that_do_not_fit(
  refused, forgery, small, draw_params, tmp_path
):
  params = draw_params(small())
  for change, said in (
    ({"unet.emb_noise.weight": None}, "no tensor 'unet.emb_noise.weight'"),
    ({"unet.dec.8x8_in0.conv_res0.weight": None}, "it has no unet.dec.8x8_in0"),
    (
      {"unet.dec.8x8_in0.attn_mask.weight": np.zeros(3)},
      "it also has unet.dec.8x8_in0",
    ),
    ({"unet.emb_label.weight": np.zeros((8, 9))}, "is [8, 9] and not"),
    ({"unet.out_gain": np.array(np.nan, np.float16)}, "is not finite"),
  ):
    changed = {k: v for k, v in (params | change).items() if v is not None}
    network = forgery.network(changed, small())
    path = tmp_path / "network.pkl"
    path.write_bytes(forgery.plain(forgery.snapshot(network, None)))
    argv = path, f"--out={tmp_path}/out"
    line = refused(1, "import-edm2", *argv)
    assert said in line and str(path) in line


def train(printed, run, folder, *argv):
  flag = f"--config={ADAPT}:run={run},tiny"
  printed("train", flag, f"--workdir={folder}", *SHALLOWER, *argv)


@pytest.mark.slow
def test_adaptation_and_distillation(printed, imported, caplog, tmp_path):
  """Import, adaptation, guided sCD and sampling follow on each other."""
  adapted, student = tmp_path / "adapted", tmp_path / "student"
  teacher = f"--config.teacher={imported}"
  with caplog.at_level("INFO"):
    train(printed, "teacher", adapted, teacher)
  assert "\nnegated (1): out_gain\nfitted (6): " in caplog.text

  start = f"--config.start={adapted}"
  train(printed, "scd,guide", student, teacher, start)
  noted = json.loads((student / "teacher.json").read_text())
  assert noted["workdir"] == str(imported)
  images, said = sample(
    printed, student, tmp_path / "samples", "--steps=2", "--guidance=1.5"
  )
  assert "2 network evaluations each" in said and images.std() > 5


@pytest.mark.parametrize(
  "run", ["scd", pytest.param("teacher", marks=pytest.mark.slow)]
)
def test_guidance_that_the_teacher_cannot_give(
  run, refused, printed, pickles, tmp_path
):
  unguided = tmp_path / "unguided"
  printed("import-edm2", pickles / NAME, f"--out={unguided}")
  said = refused(
    2,
    "train",
    f"--config={ADAPT}:run={run},tiny",
    *SHALLOWER,
    f"--workdir={tmp_path}/run",
    f"--config.teacher={unguided}",
    "--config.objective.guidance=fixed",
  )
  assert "was always given labels in training" in said
