"""Parity of transformers with diffusers' DiT, and with formulas written out.

The references compute in float64, so that errors are those of our float32.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.networks import dit, presets

CONFIG = networks.DiTConfig(
  resolution=8,
  in_channels=4,
  num_classes=10,
  guidance=True,
  target=True,
  channels=32,
  depth=3,
  channels_per_head=16,
)
PUBLISHED = dataclasses.replace(CONFIG, **presets.DIT_LAYERS)
LIGHTNING = dataclasses.replace(CONFIG, modulation="adaln")


@pytest.fixture
def torch():
  return pytest.importorskip("torch")


@pytest.fixture
def draw(random_weights):
  """`draw(shapes)`: weights that keep the magnitude; none is zero."""

  def scaled(leaf):
    return np.asarray(leaf) * (len(leaf) ** -0.5 if leaf.ndim > 1 else 0.5)

  def of_name(path, leaf):
    # Around one, so that attention is far from uniform.
    return 1 + leaf if path[-1].key in ("q_scale", "k_scale") else leaf

  def params(shapes):
    drawn = jax.tree.map(scaled, random_weights(shapes))
    return jax.tree_util.tree_map_with_path(of_name, drawn)

  return params


@pytest.fixture
def told():
  """Samples, their times and what else the network is told; and a cotangent."""
  rng = np.random.default_rng(1)
  x, cotangent = rng.normal(size=(2, 3, 8, 8, 4)).astype(np.float32)
  t, target = rng.uniform(0.1, 1.5, (2, 3)).astype(np.float32)
  guidance = np.array([1, 1.5, 3], np.float32)
  label = np.array([3, 10, 7])  # 10 is "no label"
  return x, t, dict(label=label, guidance=guidance, target=target), cotangent


def assert_near(given, wanted):
  """Compares to rounding: the worst error, relative to what is usual."""
  given, wanted = np.asarray(given, np.float64), np.asarray(wanted)
  assert given.shape == wanted.shape and wanted.dtype == np.float64
  error = np.abs(given - wanted).max() / np.sqrt(np.mean(wanted**2))
  assert error < 1e-5


def ours(config, params, told):
  """Returns `F`, and the gradient by `x` of its product with the cotangent."""
  x, t, cond, cotangent = told
  network = networks.build(config)

  @jax.jit
  def both(params, x):
    F, pull = jax.vjp(lambda x: network.F({"denoiser": params}, x, t, cond), x)
    return F, *pull(cotangent)

  return both(params, x)


def dense(layer, x):
  return x @ layer["weight"] + layer["bias"]


def silu(x):
  return x / (1 + np.exp(-x))


def embedding(p, t, cond):
  """Computes the conditioning before its last SiLU, in NumPy."""
  frequencies = 10_000.0 ** (-np.arange(128) / 128)

  def features(x):
    angles = np.outer(x.astype(np.float64), frequencies)
    return np.concatenate([np.cos(angles), np.sin(angles)], -1)

  hidden = dense(p["emb_noise"], features(t))
  for name in ("guidance", "target"):
    hidden += features(cond[name]) @ p[f"emb_{name}"]["weight"]
  return dense(p["emb_hidden"], silu(hidden)) + p["emb_label"][cond["label"]]


def test_embedding_written_out(draw, told):
  _, t, cond, _ = told
  params = draw(networks.build(CONFIG).shapes)["denoiser"]["embedding"]
  module = dit.Embedding(CONFIG)
  given = jax.jit(module.apply)({"params": params}, jnp.asarray(t), cond)
  assert_near(given, silu(embedding(params, t, cond)))


def diffusers_tensors(config, params):
  """Renames our weights, and lays them out as PyTorch does."""
  tensors = {}

  def put(name, weight, bias):
    tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight.T, bias

  # A filter for each feature, `[features, channels, rows, columns]`.
  filters = params["patches"]["weight"].T
  filters = filters.reshape(-1, config.patch, config.patch, config.in_channels)
  tensors["pos_embed.proj.weight"] = filters.transpose(0, 3, 1, 2)
  tensors["pos_embed.proj.bias"] = params["patches"]["bias"]
  for i in range(config.depth):
    block, name = params[f"block_{i}"], f"transformer_blocks.{i}"
    put(f"{name}.norm1.linear", **block["modulation"]["emb"])
    qkv = block["attention"]["qkv"]
    weights, biases = (np.split(qkv[n], 3, -1) for n in ("weight", "bias"))
    for part, weight, bias in zip("qkv", weights, biases, strict=True):
      put(f"{name}.attn1.to_{part}", weight, bias)
    put(f"{name}.attn1.to_out.0", **block["attention"]["proj"])
    put(f"{name}.ff.net.0.proj", **block["mlp"]["fc1"])
    put(f"{name}.ff.net.2", **block["mlp"]["fc2"])
  put("proj_out_1", **params["modulation"]["emb"])
  put("proj_out_2", **params["out"])
  return tensors


@pytest.mark.integration
def test_parity_with_diffusers(torch, draw, told):
  """All but the embedding of time, whose frequencies are others there."""
  diffusers = pytest.importorskip("diffusers")
  config = PUBLISHED
  params = draw(networks.build(config).shapes)["denoiser"]
  x, t, cond, cotangent = told
  theirs = diffusers.DiTTransformer2DModel(
    num_attention_heads=config.channels // config.channels_per_head,
    attention_head_dim=config.channels_per_head,
    in_channels=config.in_channels,
    num_layers=config.depth,
    sample_size=config.resolution,
    patch_size=config.patch,
    num_embeds_ada_norm=config.num_classes,
    norm_eps=1e-6,  # of each block's second norm; its first has it anyway
  )
  given = torch.nn.Module()
  emb = torch.tensor(embedding(params["embedding"], t, cond))
  given.forward = lambda *args, **kwargs: emb
  for block in theirs.transformer_blocks:
    block.norm1.emb = given  # the first block's is the last layer's too
  theirs.double()
  tensors = diffusers_tensors(config, params)
  # Strictly: each of their weights is one of ours.
  theirs.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()})

  inputs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
  wanted = theirs(inputs.movedim(-1, 1)).sample.movedim(1, -1)
  (wanted * torch.tensor(cotangent)).sum().backward()
  F, gradient = ours(config, params, told)
  assert 0.3 < np.std(F) < 3
  assert_near(F, wanted.detach())
  assert_near(gradient, inputs.grad)


def angles(places, count):
  """Returns the angles of places, at frequencies that fall from one."""
  return np.outer(places, 10_000.0 ** (-np.arange(count) / count))


def lightning_dit(torch, config, p, norms, x, emb):
  """Restates LightningDiT's forward pass (arXiv 2501.01423), `[B, H, W, C]`.

  Args:
    torch: the module.
    config: the sizes.
    p: our parameters, as tensors.
    norms: learnt weights `[2 depth + 1, channels]` of all RMSNorms.
    x: the input.
    emb: the conditioning.
  """
  side, patch, d = config.side, config.patch, config.channels
  rows, columns = np.divmod(np.arange(side**2), side)
  conditioning = emb * emb.sigmoid()

  def rms_norm(x, weight):
    return weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

  def modulation(p, count):
    return dense(p["modulation"]["emb"], conditioning)[:, None].chunk(count, -1)

  def rotated(x):
    """Turns pairs of adjacent channels, as complex numbers."""
    count = config.channels_per_head // 4
    turns = [angles(rows, count), angles(columns, count)]
    turns = np.exp(1j * np.concatenate(turns, -1))[:, None]  # for all heads
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.tensor(turns)).flatten(-2)

  def attention(p, x):
    heads = (3, -1, config.channels_per_head)
    q, k, v = dense(p["qkv"], x).unflatten(-1, heads).unbind(2)
    q = rotated(rms_norm(q, p["q_scale"]))
    k = rotated(rms_norm(k, p["k_scale"]))
    logits = torch.einsum("blhd,bmhd->bhlm", q, k)
    weights = (logits / config.channels_per_head**0.5).softmax(-1)
    values = torch.einsum("bhlm,bmhd->blhd", weights, v)
    return dense(p["proj"], values.flatten(2))

  def mlp(p, x):
    a, b = dense(p["fc1"], x).chunk(2, -1)
    return dense(p["fc2"], a * a.sigmoid() * b)

  places = [
    wave(angles(place, d // 4))
    for place in (columns, rows)
    for wave in (np.sin, np.cos)
  ]
  # From (row, row in patch, column, column in patch, channel) and back.
  x = x.unflatten(2, (side, patch)).unflatten(1, (side, patch))
  x = x.transpose(2, 3).flatten(3).flatten(1, 2)
  x = dense(p["patches"], x) + torch.tensor(np.concatenate(places, -1))
  for i in range(config.depth):
    block = p[f"block_{i}"]
    shift, scale, gate, *of_mlp = modulation(block, 6)
    y = rms_norm(x, norms[2 * i]) * (1 + scale) + shift
    x = x + gate * attention(block["attention"], y)
    shift, scale, gate = of_mlp
    y = rms_norm(x, norms[2 * i + 1]) * (1 + scale) + shift
    x = x + gate * mlp(block["mlp"], y)
  shift, scale = modulation(p, 2)
  x = dense(p["out"], rms_norm(x, norms[-1]) * (1 + scale) + shift)
  x = x.unflatten(-1, (patch, patch, -1)).unflatten(1, (side, side))
  return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def fold_norms(config, params, norms):
  """Puts learnt weights `w` of norms into ours, whose norms have none.

  A scale `s` becomes `w (1 + s) - 1`.
  """
  names = [f"block_{i}" for i in range(config.depth)]
  parts = [params[name] for name in names] + [params]
  weights = np.split(norms, range(2, len(norms), 2))
  for part, w in zip(parts, weights, strict=True):
    emb = part["modulation"]["emb"]
    # Views: vectors of shift, scale and gate, of which scales are folded.
    vectors = emb["weight"].reshape(config.channels, -1, config.channels)
    biases = emb["bias"].reshape(-1, config.channels)
    vectors[:, 1::3] *= w
    biases[1::3] = w * (1 + biases[1::3]) - 1


@pytest.mark.integration
@pytest.mark.parametrize("learnt", [False, True])
def test_parity_with_lightning_dit(learnt, torch, draw, told):
  """Its norms have learnt weights, which adaLN can have instead."""
  config = LIGHTNING
  params = draw(networks.build(config).shapes)["denoiser"]
  x, t, cond, cotangent = told
  norms = np.ones((2 * config.depth + 1, config.channels))
  if learnt:
    norms += 0.5 * np.random.default_rng(2).normal(size=norms.shape)
  double = lambda x: torch.tensor(x, dtype=torch.float64)
  inputs = double(x).requires_grad_()
  wanted = lightning_dit(
    torch,
    config,
    jax.tree.map(double, params),
    double(norms),
    inputs,
    double(embedding(params["embedding"], t, cond)),
  )
  (wanted * double(cotangent)).sum().backward()
  if learnt:
    fold_norms(config, params, norms)
  F, gradient = ours(config, params, told)
  assert 0.3 < np.std(F) < 3
  assert_near(F, wanted.detach())
  assert_near(gradient, inputs.grad)


def normal(x, norm):
  x = x - x.mean(-1, keepdims=True) if norm == "layer" else x
  return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_norms_of_small_numbers(norm):
  """What is added to the variance is not much less than it."""
  x = 1e-3 * np.random.default_rng(0).normal(1, 1, (4, 32))
  given = dit.normalized(jnp.asarray(x, "f4"), norm)
  assert_near(given, normal(x, norm))


def pnorm(x):
  return x / (np.sqrt(np.mean(x**2, -1, keepdims=True)) + 1e-4)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_double_normalisation_written_out(norm, draw):
  """One block, as sCM has it (arXiv 2410.11081, Section 4.1), against NumPy."""
  config = dataclasses.replace(
    CONFIG, modulation="double", norm=norm, rotary=False, qk_norm=False
  )
  block = dit.Block(config)
  rng = np.random.default_rng(0)
  x, emb = rng.normal(size=(2, 6, 32)), rng.normal(size=(2, 32))
  arguments = jnp.asarray(x, "f4"), jnp.asarray(emb, "f4")
  shapes = jax.eval_shape(
    lambda key: block.init(key, *arguments, False), jax.random.key(0)
  )
  p = draw(shapes)["params"]
  run = jax.jit(lambda p, x, emb: block.apply({"params": p}, x, emb, False))
  given = run(p, *arguments)

  def attention(x):
    qkv = dense(p["attention"]["qkv"], x).reshape(2, 6, 3, 2, 16)
    q, k, v = np.moveaxis(qkv, 2, 0)
    weights = np.exp(np.einsum("blhd,bmhd->bhlm", q, k) / 16**0.5)
    weights /= weights.sum(-1, keepdims=True)
    values = np.einsum("bhlm,bmhd->blhd", weights, v)
    return dense(p["attention"]["proj"], values.reshape(2, 6, 32))

  def mlp(x):
    a, b = np.split(dense(p["mlp"]["fc1"], x), 2, -1)
    return dense(p["mlp"]["fc2"], silu(a) * b)

  vectors = dense(p["modulation"]["emb"], emb)[:, None]
  b1, s1, gate1, b2, s2, gate2 = np.split(vectors, 6, -1)
  x = x + gate1 * attention(normal(x, norm) * pnorm(1 + s1) + pnorm(b1))
  x = x + gate2 * mlp(normal(x, norm) * pnorm(1 + s2) + pnorm(b2))
  assert_near(given, x)
