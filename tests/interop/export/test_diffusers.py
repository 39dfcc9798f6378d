"""The diffusers pipeline draws the trainer's samples, without the trainer."""

import json
import math
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

LABELS = np.array([0, 2, 3, 1, 0])  # 3 is "no label"


def relative(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def nhwc(x):
  return x.permute(*range(x.ndim - 3), -2, -1, -3).numpy()


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
  """Where diffusers copies custom code to, which is not the user's here."""
  from diffusers.utils import dynamic_modules_utils

  with pytest.MonkeyPatch.context() as patch:
    folder = str(tmp_path_factory.mktemp("huggingface"))
    patch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", folder)
    patch.setitem(os.environ, "HF_HOME", folder)  # of other processes
    yield folder


@pytest.fixture(scope="module")
def load(export_of, home):
  """`load(name, **request)`: the pipeline, as its users load it."""
  from diffusers import DiffusionPipeline
  from diffusers.utils import logging

  logging.set_verbosity_error()
  logging.disable_progress_bar()

  def run(name, dtype=None, **request):
    path = str(export_of(name, formats=("diffusers",), **request))
    pipe = DiffusionPipeline.from_pretrained(
      path, custom_pipeline=path, trust_remote_code=True, dtype=dtype
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe

  return run


def sample(pipe, model, steps, guidance=1.0, **options):
  """The pipeline's data and the noise it drew, both NHWC."""
  labels = LABELS if model.network.config.num_classes else None
  images = pipe(
    labels,
    num_inference_steps=steps,
    guidance_scale=guidance,
    batch_size=5,
    generator=torch.Generator().manual_seed(1),
    output_type="pt",
    **options,
  ).images
  again = torch.Generator().manual_seed(1)
  shape = 5, *pipe.unet.shape
  draws = [torch.randn(shape, generator=again) for _ in range(steps)]
  noise = nhwc(torch.stack(draws))[: model.noise_draws(steps)]
  return nhwc(images), noise


@pytest.mark.parametrize(
  "name, steps, guidance",
  [
    ("student", 1, 1.7),
    pytest.param("student", 2, 1.0, marks=pytest.mark.slow),
    ("student", 4, 1.7),
    pytest.param("student-edm2", 2, 1.7, marks=pytest.mark.slow),
    pytest.param("unlabelled", 2, 1.0, marks=pytest.mark.slow),
    ("unlabelled-edm2", 1, 1.0),
    ("map", 3, 1.7),
    ("teacher", 2, 1.0),
    pytest.param("teacher-edm2", 2, 1.7, marks=pytest.mark.slow),
    ("teacher-guided", 1, 1.7),
    pytest.param("teacher-dpm", 1, 1.0, marks=pytest.mark.slow),
    ("teacher-dpm", 4, 1.7),
    ("teacher-limited", 4, 1.7),
    ("dit", 1, 1.7),
    ("dit", 2, 1.0),
    ("dit-sit", 1, 1.0),
    ("dit-sit", 2, 1.0),
    pytest.param("dit-lightning", 2, 1.0, marks=pytest.mark.slow),
    pytest.param("dit-map", 3, 1.7, marks=pytest.mark.slow),
    ("dit-teacher", 4, 1.7),
    ("dit-teacher-guided", 2, 1.7),
  ],
)
def test_samples_agree_with_the_trainers(
  name, steps, guidance, load, model_of, draw
):
  model = model_of(name)
  data, noise = sample(load(name), model, steps, guidance)
  expected = draw(model, noise, LABELS, steps, guidance)
  assert relative(data, expected) < 1e-4


@pytest.mark.parametrize("name", ["student", "dit"])
def test_bfloat16(name, load, model_of, draw):
  """The bound is that of docs/export.md."""
  model, pipe = model_of(name), load(name, torch.bfloat16)
  data, noise = sample(pipe, model, 2)
  assert pipe.dtype == torch.bfloat16
  assert 1e-4 < relative(data, draw(model, noise, LABELS, 2)) < 0.05


def test_a_teacher_is_marked_and_takes_many_steps(load, export_of):
  folder = export_of("teacher", formats=("diffusers",))
  index = json.loads((folder / "model_index.json").read_text())
  assert index["consistency"] is False and index["steps"] == 4
  assert json.loads((folder / "config.json").read_text())["kind"] == "diffusion"
  assert "It is a diffusion model" in (folder / "README.md").read_text()
  assert not (folder / "scheduler").exists()
  pipe, asked = load("teacher"), []
  pipe.unet.register_forward_hook(lambda *_: asked.append(1))
  assert pipe.scheduler is None
  pipe([0])
  assert len(asked) == 7  # Heun: 2 x 4 - 1
  pipe, asked = load("teacher-dpm"), []
  pipe.unet.register_forward_hook(lambda *_: asked.append(1))
  pipe([0])
  assert len(asked) == 4


def test_guidance_is_the_runs_own_by_default(load):
  """And 1 in folders of before, which say nothing."""
  pipe, noise = load("student"), torch.randn(1, 1, 4, 4)
  draw = lambda **given: (
    pipe(
      [1], num_inference_steps=1, latents=noise, output_type="pt", **given
    ).images
  )
  plain = draw()
  torch.testing.assert_close(draw(guidance_scale=1.0), plain, rtol=0, atol=0)
  wanted = draw(guidance_scale=1.7)
  assert not torch.equal(wanted, plain)
  pipe.register_to_config(guidance=1.7)
  torch.testing.assert_close(draw(), wanted, rtol=0, atol=0)
  pipe.register_to_config(guidance=1.0)


def test_output_types(load):
  pipe = load("student")
  draw = lambda kind: (
    pipe(
      [0, 1], generator=torch.Generator().manual_seed(0), output_type=kind
    ).images
  )
  data, array, pictures = draw("pt"), draw("np"), draw("pil")
  assert data.shape == (2, 1, 4, 4) and array.shape == (2, 4, 4, 1)
  levels = np.clip(np.round((nhwc(data) + 1) * 127.5), 0, 255)
  np.testing.assert_allclose(array * 255, levels, atol=1e-4)
  np.testing.assert_array_equal(np.stack(pictures), levels[..., 0])
  assert load("unlabelled")(batch_size=3).images[2].mode == "RGB"


def test_an_autoencoder_decodes(load, export_of):
  class Decoder(torch.nn.Module):
    dtype, device = torch.float32, torch.device("cpu")

    def decode(self, latents):
      class Output:
        sample = latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)

      return Output

  pipe = load("latents")
  card = (
    export_of("latents", formats=("diffusers",)) / "README.md"
  ).read_text()
  assert 'output_type="latent"' in card and "as `vae=`" in card
  draw = lambda kind: (
    pipe(generator=torch.Generator().manual_seed(0), output_type=kind).images
  )
  latents = draw("latent")
  assert latents.shape == (1, 4, 4, 4) and latents.std() > 1
  with pytest.raises(ValueError, match="has no autoencoder"):
    draw("pil")
  pipe.vae = Decoder()
  torch.testing.assert_close(draw("pt")[:, :, ::8, ::8], latents[:, :3])
  assert draw("pil")[0].size == (32, 32)


def test_noise_is_an_argument(load):
  pipe, z = load("student"), torch.randn(2, 1, 4, 4)
  one = lambda **more: (
    pipe([0, 1], num_inference_steps=1, output_type="pt", **more).images
  )
  torch.testing.assert_close(one(latents=z), one(latents=z))
  with pytest.raises(ValueError, match=r"latents are \(1, 1, 4, 4\)"):
    one(latents=z[:1])


@pytest.mark.parametrize(
  "name, arguments, said",
  [
    ("student-edm2", {"class_labels": [4]}, "4 is not a label"),
    ("unlabelled", {"class_labels": [0]}, "takes no labels"),
    ("unlabelled", {"guidance_scale": 2.0}, "trained without guidance"),
    ("student-edm2", {"class_labels": torch.eye(3)}, "whole numbers"),
    ("student-edm2", {"class_labels": [1.5]}, "whole numbers"),
    ("student-edm2", {"guidance_scale": math.nan}, "guidance scale is nan"),
    ("student-edm2", {"num_inference_steps": 0}, "must be positive"),
    ("map", {"num_inference_steps": 300}, "do not decrease"),
    ("unlabelled", {"output_type": "tensor"}, "choose from pil, np, pt"),
    ("unlabelled", {"generator": [torch.Generator()] * 2}, "2 generators for"),
  ],
)
def test_mistakes(name, arguments, said, load):
  with pytest.raises(ValueError, match=said):
    load(name)(**arguments)


def test_a_network_that_always_had_labels_needs_them(load):
  """It neither draws without a label nor is guided by one, as in JAX."""
  pipe = load("teacher")
  assert pipe.config.unconditional
  pipe.register_to_config(unconditional=False)
  for arguments in (
    {"class_labels": None},
    {"class_labels": [3]},
    {"class_labels": [0], "guidance_scale": 2.0},
  ):
    with pytest.raises(ValueError, match="label"):
      pipe(**arguments)
  pipe([0], num_inference_steps=1)
  pipe.register_to_config(unconditional=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["student", "dit"])
def test_neither_trainer_nor_jax_is_needed(
  name, export_of, model_of, draw, home, python, tmp_path
):
  """Where neither can be imported, the same noise draws the same picture."""
  path = str(export_of(name, formats=("diffusers",)))
  code = f"""
import sys
sys.modules.update(scm_jax=None, jax=None, flax=None)
import numpy as np, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(
  {path!r}, custom_pipeline={path!r}, trust_remote_code=True
)
z = torch.linspace(-2, 2, 80).reshape(5, 1, 4, 4)
labels = {LABELS.tolist()}
images = pipe(labels, num_inference_steps=1, latents=z, output_type="np").images
np.save("images.npy", images)
"""
  python("-c", code, cwd=tmp_path)
  noise = np.linspace(-2, 2, 80, dtype=np.float32).reshape(1, 5, 4, 4, 1)
  expected = draw(model_of(name), noise, LABELS, 1)
  levels = np.load(tmp_path / "images.npy") * 255
  wanted = np.clip((expected + 1) * 127.5, 0, 255)
  assert np.abs(levels - wanted).max() < 0.51
