"""The PyTorch module gives the network's `F`."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from scm_jax import networks
from scm_jax.codec import PixelCodec
from scm_jax.interop import edm2_names, export_folder, export_pytorch
from scm_jax.networks import magnitude
from scm_jax.sampler import Sampler

torch = pytest.importorskip("torch")

MODELS = (
  "student",
  "student-edm2",
  "unlabelled",
  "unlabelled-edm2",
  "deep",
  "deep-edm2",
  "deep-shared",
  "deep-gained",
  "patches",
  "dit",
  "dit-sit",
  "dit-lightning",
  "dit-plain",
  "dit-rotary",
  "dit-map",
)
QUICK = (
  *("student", "deep-edm2", "deep-gained", "patches"),
  *("dit", "dit-sit", "dit-rotary", "dit-map"),
)
TIMES = np.array([1e-3, 0.3, 1.1, 1.5, 1.5645], np.float32)
LABELS = np.array([0, 2, 3, 1, 0])  # 3 is "no label"
SCALES = np.array([1.0, 1.2, 2.0, 1.0, 1.7], np.float32)
TARGETS = np.array([0.0, 0.1, 0.0, 1.2, 0.7], np.float32)  # radians


def relative(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def load(export_of):
  """`load(name, torch_dtype, **request)`: the module of an export."""

  def run(name, torch_dtype=None, **request):
    folder = export_of(name, formats=("diffusers",), **request)
    index = json.loads((folder / "model_index.json").read_text())
    file, network = index["unet"]
    module = importlib.import_module(f"scm_jax.interop.pytorch.{file}")
    network = getattr(module, network)
    return network.from_pretrained(folder / "unet", torch_dtype)

  return run


@pytest.fixture(scope="module")
def case(model_of):
  """`case(name)`: input `u` NHWC and the trainer's `F` of it."""

  def run(name):
    model = model_of(name)
    c = model.network.config
    shape = 5, c.resolution, c.resolution, c.in_channels
    u = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    cond = {}
    if c.num_classes:
      cond["label"] = jnp.asarray(LABELS)
    if c.guidance:
      cond["guidance"] = jnp.asarray(SCALES)
    if c.target:
      cond["target"] = jnp.asarray(TARGETS)
    return u, np.asarray(jax.jit(model.network.F)(model.params, u, TIMES, cond))

  return run


def ask(unet, u):
  """The module's `F`, NHWC."""
  condition = map(torch.from_numpy, (LABELS, SCALES, TARGETS))
  x = torch.from_numpy(u.transpose(0, 3, 1, 2).copy())
  F = unet(x, torch.from_numpy(TIMES), *condition)
  assert F.dtype == torch.float32
  return F.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
  "name",
  [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in MODELS
  ],
)
def test_the_module_agrees(name, load, case):
  u, expected = case(name)
  assert relative(ask(load(name), u), expected) < 1e-5
  assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("name", ["deep-edm2", "dit", "dit-sit"])
def test_a_layer_reads_no_other_layers_weights(name, load, case):
  """Sequential offload to the CPU loads a layer's while it is called."""
  unet, (u, _) = load(name), case(name)
  whole = ask(unet, u)
  for layer in unet.modules():
    for parameter in layer.parameters(recurse=False):
      there = parameter.clone()

      def put(_, *args, parameter=parameter, there=there):
        parameter.copy_(there)

      def remove(_, *args, parameter=parameter):
        parameter.fill_(torch.nan)

      parameter.fill_(torch.nan)
      layer.register_forward_pre_hook(put)
      layer.register_forward_hook(remove)
  np.testing.assert_array_equal(ask(unet, u), whole)


@pytest.mark.parametrize("name", ["deep-edm2", "dit", "dit-sit"])
@pytest.mark.parametrize("dtype, most", [("bfloat16", 0.05), ("float16", 0.01)])
def test_narrow_types(name, dtype, most, load, case):
  """As stored, or asked for when loading; bounds of docs/export.md."""
  u, expected = case(name)
  stored = ask(load(name, dtype=dtype), u)
  asked = ask(load(name, getattr(torch, dtype)), u)
  assert 1e-4 < relative(stored, expected) < most
  np.testing.assert_array_equal(asked, stored)
  assert load(name, dtype=dtype).dtype == getattr(torch, dtype)


def test_the_last_blocks_in_float32(load, case):
  """Where the config says so, less is rounded."""
  u, expected = case("dit")
  narrow = load("dit", torch.bfloat16)
  every = relative(ask(narrow, u), expected)
  narrow.config["last_float32"] = 1
  some = relative(ask(narrow, u), expected)
  narrow.config["last_float32"] = 5  # more than there are
  assert relative(ask(narrow, u), expected) < some < every


@pytest.mark.parametrize("name", ["student", "dit"])
def test_defaults_are_no_label_and_no_guidance(name, load, case):
  u, _ = case(name)
  unet = load(name)
  x = torch.from_numpy(u.transpose(0, 3, 1, 2).copy())
  t = torch.from_numpy(TIMES)
  given = unet(x, t, torch.full((5,), 3), torch.ones(5))
  torch.testing.assert_close(unet(x, t), given, rtol=0, atol=0)
  assert not torch.equal(unet(x, t, torch.zeros(5).long()), given)


def test_names_and_order_are_edm2s(load, model_of):
  """Their `net.unet.load_state_dict` takes the file of an `edm2` network."""
  model = model_of("deep-edm2")
  theirs = {
    edm2_names.to_name(path, 8): edm2_names.to_theirs(np.asarray(leaf), path)
    for path, leaf in traverse_util.flatten_dict(model.params).items()
  }
  wanted = {
    name.removeprefix("unet."): tensor
    for name, tensor in theirs.items()
    if name.startswith("unet.")
  }
  state = load("deep-edm2").state_dict()
  assert state.keys() == wanted.keys()
  for name, tensor in state.items():
    np.testing.assert_array_equal(tensor.numpy(), wanted[name])


def test_names_are_lightningdits(load):
  """Those of SiT, and for the layers that it does not have."""
  names = load("dit").state_dict()
  assert {n.split(".")[0] for n in names} == {
    *("x_embedder", "t_embedder", "y_embedder", "pos_embed", "blocks"),
    *("final_layer", "guidance_embedder"),
  }
  assert {n.rpartition(".")[0] for n in names if "blocks.1" in n} == {
    f"blocks.1.{layer}"
    for layer in (
      *("attn.qkv", "attn.q_norm", "attn.k_norm", "attn.proj"),
      *("mlp.w12", "mlp.w3", "adaLN_modulation.1"),
    )
  }


@pytest.mark.parametrize(
  "plain, published", [("student", "student-edm2"), ("dit", "dit-sit")]
)
def test_published_names_are_written_with_safetensors_alone(
  plain, published, export_of
):
  plain = export_of(plain, formats=("safetensors",))
  published = export_of(published, formats=("safetensors",))
  assert not (plain / "unet").exists()
  assert (published / "unet" / export_pytorch.WEIGHTS).exists()
  assert not (published / "model_index.json").exists()


@pytest.mark.parametrize("name", ["deep", "dit-map"])
def test_every_parameter_is_written(name, model_of):
  """The denoiser's; a transformer has its tokens' sinusoids besides."""
  model = model_of(name)
  config, denoiser = model.network.config, model.params["denoiser"]
  module = export_pytorch.MODULES[type(config)]
  found = module.tensors(denoiser, config)
  found.pop("pos_embed", None)
  ours = export_folder.flatten(model.params["denoiser"])
  assert sorted(t.size for t in found.values()) == sorted(
    leaf.size for leaf in ours.values()
  )


def test_parity_with_edm2s_own_network(reference, tmp_path):
  """EDM2's denoised output, through our names, file and module."""
  from scm_jax.interop.pytorch.unet_trigflow import UNetTrigFlow

  tensors, theirs = reference
  config = networks.UNetConfig(
    resolution=theirs["img_resolution"],
    in_channels=theirs["img_channels"],
    num_classes=theirs["label_dim"],
    form="edm2",
    channels=theirs["model_channels"],
    channel_mult=tuple(theirs["channel_mult"]),
    num_blocks=theirs["num_blocks"],
    attn_resolutions=tuple(theirs["attn_resolutions"]),
    channels_per_head=theirs["channels_per_head"],
  )
  params = edm2_names.params_from_tensors(
    config,
    {k[6:]: np.array(v) for k, v in tensors.items() if k.startswith("param:")},
  )
  params = magnitude.normalize_weights(params, magnitude.EPS)
  codec = PixelCodec(0.0, 0.5, 0.5)
  model = Sampler(networks.build(config), params, codec, "diffusion")
  export_pytorch.write_network(tmp_path / "unet", model)
  unet = UNetTrigFlow.from_pretrained(tmp_path / "unet")

  given = {
    name: torch.from_numpy(np.array(tensor))
    for name, tensor in tensors.items()
    if not name.startswith("param:")
  }
  sigma, one_hot = given["in:sigma"], given["in:labels_onehot"]
  t = torch.atan(sigma / 0.5)
  x_t = t.cos()[:, None, None, None] * given["in:x"]
  none = torch.full((len(t),), config.num_classes)
  label = torch.where(one_hot.sum(1) > 0, one_hot.argmax(1), none)
  F = unet(x_t / 0.5, t, label)
  cos, sin = (v[:, None, None, None] for v in (t.cos(), t.sin()))
  expected = given["out:denoised"].numpy()
  assert relative((cos * x_t - sin * 0.5 * F).numpy(), expected) < 2e-5
