"""DINOv2's transformer against the same in PyTorch, and its files."""

import jax
import numpy as np
import PIL.Image
import pytest

from scm_jax import errors
from scm_jax.interop.state_dict import Misfit
from scm_jax.metrics import dinov2

WIDTH, DEPTH, HIDDEN = 128, 2, 256


def draw(trained):
  """Random tensors by Facebook's names, for a grid of trained x trained."""
  rng = np.random.default_rng(0)
  layer = lambda o, *i: rng.normal(size=(o, *i)) / np.sqrt(np.prod(i))
  vector = lambda n=WIDTH, mean=0.0: mean + 0.3 * rng.normal(size=n)
  found = {
    "cls_token": rng.normal(size=(1, 1, WIDTH)),
    "mask_token": np.zeros((1, WIDTH)),
    "pos_embed": rng.normal(size=(1, 1 + trained**2, WIDTH)),
    "patch_embed.proj.weight": layer(WIDTH, 3, 14, 14),
    "patch_embed.proj.bias": vector(),
    "norm.weight": vector(mean=1),
    "norm.bias": vector(),
  }
  for i in range(DEPTH):
    found |= {
      f"blocks.{i}.{name}": tensor
      for name, tensor in {
        "norm1.weight": vector(mean=1),
        "norm1.bias": vector(),
        "attn.qkv.weight": 3 * layer(3 * WIDTH, WIDTH),
        "attn.qkv.bias": vector(3 * WIDTH),
        "attn.proj.weight": layer(WIDTH, WIDTH),
        "attn.proj.bias": vector(),
        "ls1.gamma": vector(mean=1),
        "norm2.weight": vector(mean=1),
        "norm2.bias": vector(),
        "mlp.fc1.weight": layer(HIDDEN, WIDTH),
        "mlp.fc1.bias": vector(HIDDEN),
        "mlp.fc2.weight": layer(WIDTH, HIDDEN),
        "mlp.fc2.bias": vector(),
        "ls2.gamma": vector(mean=1),
      }.items()
    }
  return {name: np.asarray(t, np.float32) for name, t in found.items()}


def to_transformers(tensors):
  """As the file of `facebook/dinov2-large` names them."""
  found = {}
  for name, tensor in tensors.items():
    for old, new in (
      ("cls_token", "embeddings.cls_token"),
      ("mask_token", "embeddings.mask_token"),
      ("pos_embed", "embeddings.position_embeddings"),
      ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
      ("blocks.", "encoder.layer."),
      ("attn.proj", "attention.output.dense"),
      ("ls1.gamma", "layer_scale1.lambda1"),
      ("ls2.gamma", "layer_scale2.lambda1"),
    ):
      name = name.replace(old, new)
    if name.startswith("norm."):
      name = f"layer{name}"
    if "attn.qkv" in name:
      parts = zip(("query", "key", "value"), np.split(tensor, 3), strict=True)
      for part, piece in parts:
        found[name.replace("attn.qkv", f"attention.attention.{part}")] = piece
    else:
      found[name] = tensor
  return found


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(1)
  return rng.integers(0, 256, (2, 64, 96, 3), np.uint8)


def original(tensors, x):
  """All tokens, in PyTorch and float64, for x [B, 3, 224, 224]."""
  import torch

  t = {n: torch.from_numpy(tensor).double() for n, tensor in tensors.items()}
  F = torch.nn.functional
  affine = lambda name: (t[f"{name}.weight"], t[f"{name}.bias"])
  normalize = lambda x, name: F.layer_norm(x, (WIDTH,), *affine(name), 1e-6)
  patches = F.conv2d(x, *affine("patch_embed.proj"), stride=14)
  trained = round((t["pos_embed"].shape[1] - 1) ** 0.5)
  grid = t["pos_embed"][:, 1:].reshape(1, trained, trained, WIDTH)
  scale = ((16 + 0.1) / trained,) * 2
  if trained != 16:
    grid = F.interpolate(
      grid.permute(0, 3, 1, 2), scale_factor=scale, mode="bicubic"
    ).permute(0, 2, 3, 1)
  patches = patches.permute(0, 2, 3, 1) + grid
  first = (t["cls_token"] + t["pos_embed"][:, :1]).expand(len(x), 1, WIDTH)
  x = torch.cat([first, patches.reshape(len(x), -1, WIDTH)], 1)
  for i in range(DEPTH):
    name = f"blocks.{i}"
    y = F.linear(normalize(x, f"{name}.norm1"), *affine(f"{name}.attn.qkv"))
    heads = [p.unflatten(-1, (-1, 64)).transpose(1, 2) for p in y.chunk(3, -1)]
    y = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    y = F.linear(y, *affine(f"{name}.attn.proj"))
    x = x + y * t[f"{name}.ls1.gamma"]
    y = F.linear(normalize(x, f"{name}.norm2"), *affine(f"{name}.mlp.fc1"))
    y = F.linear(F.gelu(y), *affine(f"{name}.mlp.fc2"))
    x = x + y * t[f"{name}.ls2.gamma"]
  return normalize(x, "norm").numpy()


def tokens(tensors, images):
  """All tokens, and the extractor's features."""
  extractor = dinov2.extractor(tensors)

  @jax.jit
  def program(params, images):
    every = dinov2.tokens(params, dinov2.prepare(images))
    return every, extractor.apply(params, images)["features"]

  every, features = jax.device_get(program(extractor.params, images))
  assert extractor.dim == WIDTH
  np.testing.assert_array_equal(features, every[:, 0])
  return every


def relative(found, expected):
  assert found.shape == expected.shape
  return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("trained", [37, 16])
def test_tokens_as_pytorch(images, trained):
  torch = pytest.importorskip("torch")
  tensors = draw(trained)
  x = np.moveaxis(np.asarray(dinov2.prepare(images)), -1, 1).copy()
  expected = original(tensors, torch.from_numpy(x).double())
  assert relative(tokens(tensors, images), expected) < 2e-5


@pytest.mark.slow
def test_tokens_as_transformers(images):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  config = transformers.Dinov2Config(
    hidden_size=WIDTH,
    num_hidden_layers=DEPTH,
    num_attention_heads=WIDTH // 64,
    mlp_ratio=2,
    image_size=224,
    patch_size=14,
  )
  network = transformers.Dinov2Model(config).eval()
  rng = np.random.default_rng(2)
  with torch.no_grad():
    for parameter in network.parameters():
      noise = rng.normal(size=parameter.shape) / parameter.shape[-1] ** 0.5
      parameter.add_(torch.from_numpy(noise))
    x = np.moveaxis(np.asarray(dinov2.prepare(images)), -1, 1).copy()
    expected = network(torch.from_numpy(x)).last_hidden_state.numpy()
  tensors = {n: t.numpy() for n, t in network.state_dict().items()}
  assert relative(tokens(tensors, images), expected) < 2e-5


def test_names_of_the_published_file_of_transformers():
  tensors = draw(trained=4)
  theirs = to_transformers(tensors)
  assert "encoder.layer.1.attention.attention.key.bias" in theirs
  found = dinov2.from_tensors(theirs)
  expected = dinov2.from_tensors(tensors)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_conventions_of_the_input(images):
  torch = pytest.importorskip("torch")
  mean, std = np.array(dinov2.MEAN), np.array(dinov2.STD)
  x = torch.from_numpy(np.moveaxis(images, -1, 1).copy()).float()
  x = torch.nn.functional.interpolate(
    x, (224, 224), mode="bicubic", antialias=True
  )
  edm2 = (x.permute(0, 2, 3, 1).numpy() / 255 - mean) / std
  np.testing.assert_allclose(dinov2.prepare(images), edm2, atol=2e-4)
  bicubic = PIL.Image.Resampling.BICUBIC
  resized = [PIL.Image.fromarray(i).resize((224, 224), bicubic) for i in images]
  dgm_eval = (np.stack(resized) / 255 - mean) / std
  found = dinov2.prepare(images, "dinov2-dgm-eval")
  np.testing.assert_allclose(found, dgm_eval, atol=1e-5)
  assert np.abs(edm2 - dgm_eval).max() > 0.1  # clipped


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"register_tokens": np.zeros((1, 4, 128))}, "it has registers"),
    ({"cls_token": np.zeros((1, 1, 768))}, "it is ViT-B/14; FD-DINOv2 is"),
    ({"cls_token": np.zeros((1, 1, 96))}, "width 96 is not a multiple of 64"),
    ({"cls_token": None}, "no cls_token"),
    ({"pos_embed": np.zeros((1, 12, 128))}, "pos_embed has 11 patches"),
    ({"blocks.1.ls2.gamma": None}, r"no blocks\.1\.ls2\.gamma"),
    ({"blocks.0.norm1.bias": np.full(128, np.inf)}, "norm1.bias is not finite"),
    ({"head.weight": np.zeros(1)}, "it has head.weight, which"),
  ],
)
def test_tensors_of_another_network(change, message):
  changed = draw(trained=4) | change
  changed = {n: t for n, t in changed.items() if t is not None}
  with pytest.raises(Misfit, match=message):
    dinov2.from_tensors(changed)


def test_images_of_other_channels_are_an_error():
  with pytest.raises(errors.UserError, match=r"\[8, 8, 2\] cannot be given"):
    dinov2.prepare(np.zeros((1, 8, 8, 2), np.uint8))
