"""Parity with diffusers' own autoencoder; files that are something else."""

import json
import pathlib
import shutil

import chex
import jax
import numpy as np
import pytest

from scm_jax.errors import UserError
from scm_jax.interop import autoencoder, safetensors
from scm_jax.networks.autoencoder import AutoencoderConfig, build

TINY = AutoencoderConfig(channels=(8, 16, 16), blocks=1, groups=4)


@pytest.fixture(scope="module")
def folder(autoencoder_folder):
  return autoencoder_folder


@pytest.fixture(scope="module")
def params(folder):
  return autoencoder.load(folder)[1]


@pytest.fixture(scope="module")
def file(folder, tmp_path_factory):
  """Returns a file of the tensors alone, as users download it."""
  path = tmp_path_factory.mktemp("downloads") / "vae.safetensors"
  shutil.copy(folder / autoencoder.WEIGHTS, path)
  return path


def rewrite(file, path, change):
  """Writes a copy in which `change(name, tensor)` replaces a tensor or, if it
  is None, leaves it out.
  """
  tensors, _ = safetensors.read(file)
  pairs = (change(name, tensor) for name, tensor in tensors.items())
  with open(path, "wb") as stream:
    safetensors.write(stream, dict(filter(None, pairs)))
  return path


def relative(ours, theirs):
  theirs = theirs.numpy().transpose(0, 2, 3, 1)
  assert ours.shape == theirs.shape
  return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def test_parity_with_diffusers(folder, config=TINY):
  torch = pytest.importorskip("torch")
  diffusers = pytest.importorskip("diffusers")
  theirs = diffusers.AutoencoderKL.from_pretrained(folder)
  network, params = autoencoder.load(folder)
  assert network.config == config
  rng = np.random.default_rng(1)

  images = rng.uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
  mean, std = jax.jit(network.encode)(params, images)
  with torch.no_grad():
    moments = theirs.encode(torch.tensor(images.transpose(0, 3, 1, 2)))
  assert relative(mean, moments.latent_dist.mean) < 1e-5
  assert relative(std, moments.latent_dist.std) < 1e-5
  log_variance = moments.latent_dist.logvar
  assert relative(2 * np.log(std), log_variance) < 1e-5

  shape = 2, 4, 6, config.latent_channels
  latents = rng.normal(size=shape).astype(np.float32)
  decoded = jax.jit(network.decode)(params, latents)
  with torch.no_grad():
    wanted = theirs.decode(torch.tensor(latents.transpose(0, 3, 1, 2))).sample
  assert relative(decoded, wanted) < 1e-5


def draw(config):
  """Returns random parameters of an autoencoder, none of them trivial."""
  rng = np.random.default_rng(0)
  spread = lambda leaf: (
    np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.3
  )
  return jax.tree.map(
    lambda leaf: np.float32(spread(leaf) * rng.normal(size=leaf.shape)),
    build(config).shapes,
  )


ATTENDS = AutoencoderConfig((8, 8, 16), 1, 6, groups=4, attends=True)


def test_parity_of_more_attention(tmp_path):
  """As VA-VAE has it, after each block of the lowest resolution."""
  autoencoder.write(tmp_path, build(ATTENDS), draw(ATTENDS))
  assert autoencoder.load(tmp_path)[0].config == ATTENDS
  test_parity_with_diffusers(tmp_path, ATTENDS)


def by_latent_diffusion(name, levels):
  """Returns latent diffusion's name of a tensor by diffusers' name."""
  parts = name.split(".")
  if "mid_block" in parts:
    side, _, kind, i, *rest = parts
    block = f"block_{int(i) + 1}" if kind == "resnets" else "attn_1"
    parts = [side, "mid", block, *rest]
  elif parts[1] in ("down_blocks", "up_blocks"):
    side, way, level, kind, i, *rest = parts
    if way == "up_blocks":
      level = str(levels - 1 - int(level))
    kinds = {"resnets": ["block", i], "attentions": ["attn", i]}
    kinds |= {"downsamplers": ["downsample"], "upsamplers": ["upsample"]}
    parts = [side, way.removesuffix("_blocks"), level, *kinds[kind], *rest]
  name = ".".join(parts).replace("conv_norm_out", "norm_out")
  name = name.replace("conv_shortcut", "nin_shortcut").replace(
    ".to_out.0", ".proj_out"
  )
  for part in "qkv":
    name = name.replace(f".to_{part}.", f".{part}.")
  return name.replace(".group_norm.", ".norm.")


@pytest.mark.parametrize("wrapped", [True, False])
def test_latent_diffusions_checkpoint(wrapped, tmp_path):
  """Its names, its dense layers as convolutions, and what else it holds."""
  torch = pytest.importorskip("torch")
  params = draw(ATTENDS)
  content = {"loss.logvar": torch.zeros(())}
  for name, tensor in autoencoder.params_to_tensors(params).items():
    if "attentions" in name and tensor.ndim == 2:
      tensor = tensor[..., None, None]
    content[by_latent_diffusion(name, 3)] = torch.tensor(tensor)
  assert "decoder.up.2.attn.1.q.weight" in content
  assert "encoder.down.1.downsample.conv.bias" in content
  path = tmp_path / "vavae.pt"
  torch.save({"state_dict": content, "epoch": 3} if wrapped else content, path)
  network, found = autoencoder.load(path)
  assert network.config.attends and network.config.channels == (8, 8, 16)
  for written in (b"PK", None):
    path = tmp_path / f"{written}.ckpt"
    if written:
      path.write_bytes(written)
    with pytest.raises(UserError) as error:  # not to be replaced by another's
      autoencoder.load(path)
    assert str(path) in str(error.value) and "fetch" not in str(error.value)
  chex.assert_trees_all_equal(found, params)


def test_names_and_shapes_of_the_public_file():
  """The names are those of all tensors of Stable Diffusion's autoencoder."""
  torch = pytest.importorskip("torch")
  diffusers = pytest.importorskip("diffusers")
  about = autoencoder._describe(AutoencoderConfig())
  with torch.device("meta"):
    theirs = diffusers.AutoencoderKL.from_config(about).state_dict()
  assert len(theirs) == 248
  tensors = {
    # No memory: one number, seen everywhere.
    name: np.broadcast_to(np.float32(0), tensor.shape)
    for name, tensor in theirs.items()
  }
  nowhere = pathlib.Path("nowhere")
  assert autoencoder._config(tensors, nowhere) == AutoencoderConfig()
  params = autoencoder.params_from_tensors(build(AutoencoderConfig()), tensors)
  for name, array in autoencoder.params_to_tensors(params).items():
    assert array.shape == theirs.pop(name).shape
  assert not theirs


def test_a_file_alone(file, params):
  """Sizes are inferred from the tensors, with the most groups that fit."""
  network, found = autoencoder.load(file)
  assert network.config == AutoencoderConfig((8, 16, 16), blocks=1, groups=8)
  chex.assert_trees_all_equal(params, found)


@pytest.mark.parametrize("axes", [(), (1, 1)])
def test_old_names_of_attention(file, params, tmp_path, axes):
  """Dense layers and 1x1 convolutions, which older files have, are read."""
  new = ("to_q", "to_k", "to_v", "to_out.0")
  old = ("query", "key", "value", "proj_attn")

  def rename(name, tensor):
    for now, before in zip(new, old, strict=True):
      if f".{now}." in name and tensor.ndim == 2:
        tensor = tensor.reshape(*tensor.shape, *axes)
      name = name.replace(f".{now}.", f".{before}.")
    return name, tensor

  path = rewrite(file, tmp_path / "old.safetensors", rename)
  assert sum(".query." in n for n in safetensors.read(path)[0]) == 4
  chex.assert_trees_all_equal(autoencoder.load(path)[1], params)


def test_half_precision_is_widened(file, params, tmp_path):
  half = lambda name, tensor: (name, tensor.astype(np.float16))
  path = rewrite(file, tmp_path / "half.safetensors", half)
  rounded = lambda x: x.astype(np.float16).astype(np.float32)
  chex.assert_trees_all_equal(
    autoencoder.load(path)[1], jax.tree.map(rounded, params)
  )


def test_a_config_beside_that_is_another_things(file, tmp_path):
  path = shutil.copy(file, tmp_path / "vae.safetensors")
  for content in ("[]", json.dumps({"norm_num_groups": 2})):
    (tmp_path / "config.json").write_text(content)
    assert autoencoder.load(path)[0].config.groups == 8
  (tmp_path / "config.json").write_text('{"norm_num_')  # whose is not known
  with pytest.raises(UserError, match=rf"{tmp_path}/config\.json"):
    autoencoder.load(path)


DROP = "decoder.up_blocks.1.resnets.1.conv2.bias"


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda n, t: None if n == DROP else (n, t), f"has no {DROP}"),
    (lambda n, t: (n, t[:-1] if n == DROP else t), f"{DROP} is [15]"),
    (lambda n, t: ("unet." + n, t), "has no encoder.conv_in.weight"),
    (lambda n, t: (n, t.ravel()), "IndexError"),
    (
      lambda n, t: (n if n != DROP else "decoder.extra", t),
      f"has no {DROP}",
    ),
    (
      lambda n, t: None if "quant" in n else (n, t),
      "has no post_quant_conv.weight",
    ),
  ],
)
def test_other_tensors(file, tmp_path, change, says):
  path = rewrite(file, tmp_path / "other.safetensors", change)
  with pytest.raises(UserError) as caught:
    autoencoder.load(path)
  text = str(caught.value)
  assert says in text and "sd-vae-ft-mse" in text and "\n" not in text


def test_a_tensor_too_many(file, tmp_path):
  path = tmp_path / "more.safetensors"
  tensors, _ = safetensors.read(file)
  with open(path, "wb") as stream:
    safetensors.write(stream, {**tensors, "loss.logvar": np.zeros(1)})
  with pytest.raises(UserError, match=r"also has loss\.logvar"):
    autoencoder.load(path)


def test_missing_and_damaged_files(file, tmp_path):
  """The message says what to fetch and where to put it."""
  path = tmp_path / "vae.safetensors"
  wanted = rf"fetch https://\S+/{autoencoder.WEIGHTS} and put it at {path}"
  with pytest.raises(UserError, match=f"no autoencoder at .*{wanted}$"):
    autoencoder.load(path)
  path.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(UserError, match=f"not a whole safetensors .*{wanted}$"):
    autoencoder.load(path)
  with pytest.raises(UserError, match=f"no autoencoder at {tmp_path}/empty/"):
    (tmp_path / "empty").mkdir()
    autoencoder.load(tmp_path / "empty")
