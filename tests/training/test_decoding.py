"""Workdirs of latents decode their samples by the autoencoder they name."""

import pathlib
import shutil

import numpy as np
import pytest

import scm_jax
from scm_jax.cli import configs
from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import autoencoder
from scm_jax.training import initialization, resolve, run_folder, workdir

CONFIG = pathlib.Path(__file__).parents[2] / "configs/imagenet512.py"
SMALL = ("network.channel_mult=(1,)", "network.attn_resolutions=()")


def make_config(run, *fields):
  fields = (*SMALL, "network.num_blocks=1", *fields)
  flags = [f"--config.{field}" for field in fields]
  return configs.parse_config([f"--config={CONFIG}:run={run},tiny", *flags])


@pytest.fixture(scope="module")
def file(autoencoder_folder, tmp_path_factory):
  """An autoencoder's file, which a test may move away."""
  path = tmp_path_factory.mktemp("downloads") / "vae.safetensors"
  return pathlib.Path(
    shutil.copy(autoencoder_folder / autoencoder.WEIGHTS, path)
  )


@pytest.fixture(scope="module")
def student(file, random_weights, tmp_path_factory):
  """A workdir with random weights."""
  config = make_config("sct", f"data.autoencoder={file}", "ema=(0.05,)")
  params = random_weights(workdir.param_shapes(config))
  folder = tmp_path_factory.mktemp("runs") / "student"
  return workdir.write_averages(folder, config, {"0.050": params}, 1, {})


@pytest.fixture
def moved(file):
  """The autoencoder lies elsewhere for one test: where?"""
  elsewhere = file.with_name("elsewhere.safetensors")
  file.rename(elsewhere)
  yield elsewhere
  elsewhere.rename(file)


@pytest.fixture
def draw(command, student, tmp_path):
  """`draw(*argv)`: images, or the exit code and what was said."""

  def run(*argv):
    flags = (f"--workdir={student}", f"--out={tmp_path}", "--num=3")
    code, _, said = command("sample", *flags, "--steps=1", *argv)
    if code:
      return code, said
    with np.load(tmp_path / "samples.npz") as samples:
      return samples["samples"]

  return run


@pytest.mark.slow
def test_sample_decodes(draw, student):
  """Four times the side; as `scm_jax.load` does, on its devices."""
  images = draw()
  assert images.shape == (3, 32, 32, 3) and images.std() > 10
  model, _ = workdir.load(student)
  assert model.codec.autoencoder and "encoder" in model.decoder
  again = scm_jax.load(student).sample([0, 1, 2], steps=1)
  np.testing.assert_allclose(np.int32(again), np.int32(images), atol=1)


def test_the_autoencoder_is_gone(draw, student, moved, file):
  """One line; another file, or none, may be given."""
  code, said = draw()
  assert code == 1 and said.count("\n") == 1
  assert f"no autoencoder at {file}" in said and "sd-vae-ft-mse" in said
  with pytest.raises(UserError, match="no autoencoder at"):
    scm_jax.load(student)
  assert draw(f"--autoencoder={moved}").shape == (3, 32, 32, 3)
  assert draw("--autoencoder=").shape == (3, 8, 8, 3)


def test_training_needs_no_teachers_autoencoder(student, moved):
  config = make_config("sct", f"start={student}")
  assert "denoiser" in initialization.load_start(resolve.resolve(config), None)
  assert workdir.load_stored(student, 0.0).average


def test_it_may_change_while_a_run_goes_on(student, tmp_path):
  config = make_config("sct")
  path = run_folder.open_for(config, tmp_path / "run")
  run_folder.write_config(path, config)
  moved = make_config("sct", "data.autoencoder=elsewhere")
  assert run_folder.open_for(moved, path) == path
  with pytest.raises(ConfigError):
    run_folder.open_for(make_config("sct", "seed=7"), path)


def test_images_need_none(file):
  config = configs.parse_config(
    [
      f"--config={CONFIG.with_name('imagenet64.py')}:run=sct,tiny",
      f"--config.data.autoencoder={file}",
    ]
  )
  with pytest.raises(ConfigError, match=r"data\.autoencoder decodes latents"):
    resolve.check(config)


def test_another_number_of_channels(student):
  from scm_jax.networks.autoencoder import AutoencoderConfig, build

  network = build(AutoencoderConfig((8,), blocks=1, latent_channels=16))
  model, _ = workdir.load(student, autoencoder="")
  with pytest.raises(
    ConfigError, match="4 channels, and the autoencoder's have 16"
  ):
    autoencoder.attach(model, network, {})


def test_a_run_says_so_before_it_begins(command, tmp_path):
  """Not at its first grid, thousands of steps later."""
  code, _, said = command(
    "train",
    f"--config={CONFIG}:run=sct,tiny",
    f"--workdir={tmp_path}/run",
    "--config.data.autoencoder=nowhere.safetensors",
    *(f"--config.{field}" for field in SMALL),
  )
  assert code == 1 and "no autoencoder at nowhere.safetensors" in said
  assert not (tmp_path / "run" / "config.json").exists()
  assert "\n" not in said.strip().splitlines()[-1]
