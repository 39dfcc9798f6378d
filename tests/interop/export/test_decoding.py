"""Exports of a model of latents carry its autoencoder, and decode with it."""

import json
import shutil

import jax
import jax.export
import numpy as np
import pytest

import scm_jax
from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import autoencoder, export, export_folder, stablehlo
from scm_jax.training import workdir

LABELS = np.array([0, 2, 3, 1, 0], np.int32)
NOISE = np.float32(np.random.default_rng(1).normal(size=(1, 5, 4, 4, 4)))


@pytest.fixture(scope="module")
def folder(export_of):
  formats = ("stablehlo", "diffusers")
  return export_of("decoded", formats=formats, steps=(1,), license="mit")


@pytest.fixture(scope="module")
def expected(model_of):
  """What the trainer draws by one step, for seed 0."""
  images = model_of("decoded").sample(LABELS, steps=1)
  assert images.shape == (5, 16, 16, 3) and images.std() > 20
  return np.int32(images)


@pytest.fixture(scope="module")
def pixels_of(model_of):
  """`pixels_of(latents)`: the autoencoder's images, not rounded."""
  model = model_of("decoded")
  decode = jax.jit(model.codec.autoencoder.decode)
  return lambda latents: np.asarray(decode(model.decoder, latents))


def test_what_is_written(folder):
  index = json.loads((folder / "model_index.json").read_text())
  assert index["vae"] == ["diffusers", "AutoencoderKL"]
  assert "`vae/` is the autoencoder" in (folder / "README.md").read_text()
  programs = json.loads((folder / "stablehlo/programs.json").read_text())
  for program in programs["programs"]:
    files = [a["file"] for a in program["arguments"] if "file" in a]
    assert files == ["model.safetensors", f"vae/{autoencoder.WEIGHTS}"]
    shapes = [result["shape"] for result in program["results"]]
    assert shapes == [["b", 16, 16, 3], ["b", 4, 4, 4]]


def assert_same_levels(found, wanted):
  """Truncated alike, but where arithmetic crosses a level."""
  difference = np.abs(np.int32(found) - np.int32(wanted))
  assert difference.max() <= 1 and (difference > 0).mean() < 0.02


def test_without_an_autoencoder_there_is_none(export_of):
  folder = export_of("latents", formats=("diffusers",))
  assert not (folder / "vae").exists()
  index = json.loads((folder / "model_index.json").read_text())
  assert index["vae"] == [None, None]


def test_an_autoencoder_that_is_missing_is_said(folder, tmp_path):
  """Or is given, or asked not to decode."""
  lost = shutil.copytree(folder, tmp_path / "lost")
  shutil.move(lost / "vae", tmp_path / "elsewhere")
  with pytest.raises(UserError, match=rf"there is no {lost}/vae"):
    scm_jax.load(lost)
  whole = scm_jax.load(lost, autoencoder=str(tmp_path / "elsewhere"))
  small = scm_jax.load(lost, autoencoder="")
  sides = [model.sample(LABELS, steps=1).shape[1] for model in (whole, small)]
  assert sides == [16, 4]


def test_read_back(folder, expected):
  """By both ways to load, and without the autoencoder if so asked."""
  sampler = scm_jax.load(folder)
  drawn = np.int32(sampler.sample(LABELS, steps=1))
  np.testing.assert_allclose(drawn, expected, atol=1)
  other, _ = workdir.load(folder)
  assert other.codec.autoencoder == sampler.codec.autoencoder is not None
  preview = scm_jax.load(folder, autoencoder="")
  assert preview.sample(LABELS, steps=1).shape == (5, 4, 4, 3)


def test_an_export_of_an_export(folder, tmp_path):
  model, origin = export_folder.read(folder)
  model = autoencoder.attach_file(model, export_folder.autoencoder(folder))
  export.write(
    model, origin, tmp_path / "again", export.Request(formats=(), num=0)
  )
  for name in (autoencoder.WEIGHTS, autoencoder.CONFIG):
    again = (tmp_path / "again/vae" / name).read_bytes()
    assert again == (folder / "vae" / name).read_bytes()


def test_baked_programs_decode_any_batch(model_of, draw, pixels_of):
  """The data are the latents that the images come from."""
  model = model_of("decoded")
  program = stablehlo.program(model, stablehlo.Variant(1), baked=True)
  call = jax.jit(jax.export.deserialize(bytearray(program.data)).call)
  latents = draw(model, NOISE, LABELS, 1)
  levels = np.floor(np.clip((pixels_of(latents) + 1) * 127.5, 0, 255))
  for n in (5, 2):
    images, data = call(NOISE[:, :n], LABELS[:n], np.float32(1))
    np.testing.assert_allclose(data, latents[:n], rtol=1e-4, atol=1e-4)
    assert_same_levels(images, levels[:n])


def test_the_autoencoder_counts_when_baked(model_of, monkeypatch):
  model = model_of("decoded")
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.weights))
  monkeypatch.setattr(stablehlo, "LIMIT", size + 1000)
  with pytest.raises(ConfigError, match="--bake"):
    next(stablehlo.programs(model, (1,), baked=True))


@pytest.mark.slow
def test_two_devices_decode_their_own_images(
  folder, expected, python, tmp_path
):
  """In groups of two of a device's three; no image leaves its device."""
  code = """
import sys
import jax, numpy as np, scm_jax
from scm_jax.networks import autoencoder
from scm_jax.sampler_programs import decode
autoencoder.PIXELS = 2 * 16 * 16
sampler = scm_jax.load(sys.argv[1])
assert sampler.devices == 2
np.save("images.npy", sampler.sample([0, 2, 3, 1, 0], steps=1))
where = sampler.batch_sharding
x0 = jax.ShapeDtypeStruct((6, 4, 4, 4), np.float32, sharding=where)
text = jax.jit(decode).lower(sampler, x0).compile().as_text()
print([n for n in ("all-gather", "all-to-all", "all-reduce") if n in text])
"""
  how = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_NUM_CPU_DEVICES": "2"}
  assert python("-c", code, folder, cwd=tmp_path, **how) == "[]\n"
  drawn = np.int32(np.load(tmp_path / "images.npy"))
  np.testing.assert_allclose(drawn, expected, atol=1)


def test_diffusers_decodes(folder, model_of, draw, pixels_of, tmp_path):
  """From the exported folder alone, in either range of images."""
  torch = pytest.importorskip("torch")
  diffusers = pytest.importorskip("diffusers")
  from diffusers.utils import dynamic_modules_utils, logging

  logging.set_verbosity_error()
  logging.disable_progress_bar()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path))
    pipe = diffusers.DiffusionPipeline.from_pretrained(
      folder, custom_pipeline=str(folder), trust_remote_code=True
    )
  pipe.set_progress_bar_config(disable=True)
  pixels = pixels_of(draw(model_of("decoded"), NOISE, LABELS, 1))
  for low, high in ((-1.0, 1.0), (0.0, 1.0)):
    pipe.unet.config["image_range"] = (low, high)
    images = pipe(
      LABELS.tolist(),
      num_inference_steps=1,
      latents=torch.tensor(NOISE[0].transpose(0, 3, 1, 2)),
      output_type="np",
    ).images
    wanted = np.clip((pixels - low) / (high - low) * 255, 0, 255)
    assert_same_levels(np.round(images * 255), np.floor(wanted))
