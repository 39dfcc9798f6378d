"""LightningDiT's networks: what they give as ours, and how they teach."""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scm_jax
from scm_jax import networks, sampler_programs
from scm_jax.interop import sit
from scm_jax.training import resolve

WIDTH, HEAD, HIDDEN, DEPTH, SIDE, CLASSES = 96, 48, 256, 2, 8, 10
MEAN, STD = (0.5, -1.0, 0.0, 2.0), (1.0, 2.0, 0.5, 3.0)


@pytest.fixture(scope="module")
def torch():
  return pytest.importorskip("torch")


def angles(places, count):
  return np.outer(places, 10_000.0 ** (-np.arange(count) / count))


def turns():
  """The angle of each pair of channels: by its row, and then its column."""
  rows, columns = np.divmod(np.arange(SIDE**2), SIDE)
  both = [angles(place, HEAD // 4) for place in (rows, columns)]
  return np.concatenate(both, -1)


def draw(qk_norm, channels=4, patch=1, hidden=HIDDEN):
  """Random tensors of a LightningDiT by its names, none of them zero."""
  rng = np.random.default_rng(0)
  shapes = {
    "x_embedder.proj": (WIDTH, channels, patch, patch),
    "t_embedder.mlp.0": (WIDTH, 256),
    "t_embedder.mlp.2": (WIDTH, WIDTH),
    "final_layer.linear": (channels * patch**2, WIDTH),
    "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
  }
  norms = {"final_layer.norm_final": WIDTH}
  for i in range(DEPTH):
    block = f"blocks.{i}"
    shapes |= {
      f"{block}.attn.qkv": (3 * WIDTH, WIDTH),
      f"{block}.attn.proj": (WIDTH, WIDTH),
      f"{block}.mlp.w12": (2 * hidden, WIDTH),
      f"{block}.mlp.w3": (WIDTH, hidden),
      f"{block}.adaLN_modulation.1": (6 * WIDTH, WIDTH),
    }
    norms |= {f"{block}.norm1": WIDTH, f"{block}.norm2": WIDTH}
    if qk_norm:
      norms |= {f"{block}.attn.q_norm": HEAD, f"{block}.attn.k_norm": HEAD}
  normal = lambda *shape: rng.normal(size=shape)
  found = {}
  for name, shape in shapes.items():
    found[f"{name}.weight"] = np.prod(shape[1:]) ** -0.5 * normal(*shape)
    found[f"{name}.bias"] = 0.3 * normal(shape[0])
  for name, width in norms.items():
    found[f"{name}.weight"] = 1 + 0.5 * normal(width)
  table = 0.3 * normal(CLASSES + 1, WIDTH)
  found["y_embedder.embedding_table.weight"] = table
  side = SIDE // patch
  rows, columns = np.divmod(np.arange(side**2), side)
  places = [
    wave(angles(place, WIDTH // 4))
    for place in (columns, rows)
    for wave in (np.sin, np.cos)
  ]
  found["pos_embed"] = np.concatenate(places, -1)[None]
  twice = np.repeat(turns(), 2, -1)
  found |= {
    "feat_rope.freqs_cos": np.cos(twice),
    "feat_rope.freqs_sin": np.sin(twice),
  }
  return {name: x.astype(np.float32) for name, x in found.items()}


def published(tensors, y, tau, label):
  """Restates the published network in NumPy, with patches of one pixel.

  `[B, H, W, C]` at the time `tau`, from noise (0) to data (1), to the velocity
  of the same shape.
  """
  p = {name: x.astype(np.float64) for name, x in tensors.items()}
  dense = lambda name, x: x @ p[f"{name}.weight"].T + p[f"{name}.bias"]
  silu = lambda x: x / (1 + np.exp(-x))

  def norm(name, x):
    weight = p.get(f"{name}.weight")
    if weight is None:
      return x
    return weight * x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)

  def turned(x):
    """Rotates pairs of adjacent channels, as complex numbers."""
    pairs = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * turns())
    return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

  def attention(name, x):
    qkv = dense(f"{name}.qkv", x).reshape(*x.shape[:2], 3, -1, HEAD)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # [B, heads, tokens, HEAD]
    q, k = turned(norm(f"{name}.q_norm", q)), turned(norm(f"{name}.k_norm", k))
    weights = np.exp(q @ k.swapaxes(-1, -2) / HEAD**0.5)
    y = weights / weights.sum(-1, keepdims=True) @ v
    return dense(f"{name}.proj", y.swapaxes(1, 2).reshape(x.shape))

  def mlp(name, x):
    a, b = np.split(dense(f"{name}.w12", x), 2, -1)
    return dense(f"{name}.w3", silu(a) * b)

  def modulation(name, count):
    vectors = dense(f"{name}.adaLN_modulation.1", silu(emb))
    return np.split(vectors[:, None], count, -1)

  times = np.concatenate(
    [wave(angles(tau, 128)) for wave in (np.cos, np.sin)], -1
  )
  emb = dense("t_embedder.mlp.2", silu(dense("t_embedder.mlp.0", times)))
  emb = emb + p["y_embedder.embedding_table.weight"][label]
  x = y.reshape(len(y), SIDE**2, -1) @ p["x_embedder.proj.weight"][..., 0, 0].T
  x = x + p["x_embedder.proj.bias"] + p["pos_embed"]
  for i in range(DEPTH):
    block = f"blocks.{i}"
    shift, scale, gate, *of_mlp = modulation(block, 6)
    z = norm(f"{block}.norm1", x) * (1 + scale) + shift
    x = x + gate * attention(f"{block}.attn", z)
    shift, scale, gate = of_mlp
    z = norm(f"{block}.norm2", x) * (1 + scale) + shift
    x = x + gate * mlp(f"{block}.mlp", z)
  shift, scale = modulation("final_layer", 2)
  x = norm("final_layer.norm_final", x) * (1 + scale) + shift
  return dense("final_layer.linear", x).reshape(y.shape)


@pytest.mark.parametrize(
  ("qk_norm", "hidden"), [(False, HIDDEN), (True, HIDDEN), (False, 230)]
)
def test_parity_with_the_published_network(qk_norm, hidden):
  """As TrigFlow's, at TrigFlow's times; FACM's teacher normalises q and k.

  Hidden layers of the sizes L and 1.6 B are some channels narrower than ours.
  """
  channels = 6
  tensors = draw(qk_norm, channels, hidden=hidden)
  statistics = (0.0,) * channels, (1.0,) * channels
  config = resolve.resolve(sit.config(tensors, statistics)).network
  params = sit.params_from_tensors(config, tensors)
  assert (config.channels_per_head, config.qk_norm) == (HEAD, qk_norm)
  rng = np.random.default_rng(1)
  u = rng.normal(size=(3, SIDE, SIDE, channels)).astype(np.float32)
  t, label = np.array([0.02, 0.8, 1.55]), np.array([0, 7, CLASSES])
  expand = lambda x: x[:, None, None, None]
  noise = np.sin(t) / (np.sin(t) + np.cos(t))  # a rectified flow's time
  y = expand(1 / (np.sin(t) + np.cos(t))) * u
  to_data = published(tensors, y, 1 - noise, label)
  # With data `a` and noise `e`: y = (1 - noise) a + noise e, to_data = a - e.
  data = y + expand(noise) * to_data
  noise_part = y - expand(1 - noise) * to_data
  wanted = expand(np.cos(t)) * noise_part - expand(np.sin(t)) * data
  network = networks.build(config)
  F = jax.jit(network.F)(params, u, jnp.asarray(t, "f4"), {"label": label})
  error = np.abs(F - wanted).max() / np.sqrt(np.mean(wanted**2))
  assert error < 1e-5
  assert 0.3 < np.std(to_data) < 5


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_student_draws_as_published(steps):
  """From noise alone, by equal parts of a rectified flow's time."""
  tensors = draw(qk_norm=True)
  config = sit.config(tensors, ((0.0,) * 4, (1.0,) * 4), student=True)
  run = resolve.resolve(config)
  model = resolve.sampler(run, sit.params_from_tensors(run.network, tensors))
  # FACM's two steps are ours by default; more of them need their times.
  taus = np.arange(steps) / steps
  if steps > 2:
    times = tuple(float(np.arctan((1 - tau) / tau)) for tau in taus[1:])
    model = model.changed(times=times)
  assert not model.unconditional  # FACM trains them with labels alone
  label = np.array([0, 7, 9])
  noise = model.noise(len(label), steps=steps)
  data = np.zeros(noise.shape[1:])
  for tau, z in zip(taus, noise, strict=True):
    y = tau * data + (1 - tau) * z
    told = np.full(len(label), tau)
    data = y + (1 - tau) * published(tensors, y, told, label)
  x0, _ = sampler_programs.integrate(
    model, jnp.asarray(noise), label, jnp.float32(1), steps
  )
  found = x0 / model.codec.sigma_d
  error = np.abs(found - data).max() / np.sqrt(np.mean(data**2))
  assert error < 1e-4


def saved(torch, path, tensors):
  torch.save(
    {name: torch.tensor(np.asarray(x)) for name, x in tensors.items()}, path
  )
  return path


@pytest.fixture
def statistics(torch, tmp_path):
  """A file of the mean and deviation of latents, `[1, C, 1, 1]` each."""
  shaped = lambda x: np.reshape(np.float32(x), (1, -1, 1, 1))
  content = {"mean": shaped(MEAN), "std": shaped(STD)}
  return saved(torch, tmp_path / "latents_stats.pt", content)


def test_a_students_checkpoint(
  torch, statistics, command, printed, caplog, tmp_path
):
  """FACM's trainer keeps two averages and draws from the second."""
  tensors, averages = draw(qk_norm=True), {}
  for i, sign in enumerate((-1, 1)):
    own = f"ema_models.{i}."
    averages[f"{own}initted"] = torch.tensor(True)
    averages[f"{own}step"] = torch.tensor(7)
    for name, x in tensors.items():
      tensor = torch.tensor(sign * x if "final" in name else x)
      averages[f"{own}ema_model.{name}"] = tensor.bfloat16()
  flags = argparse.Namespace(cfgw=1.75, distill=True)
  content = {"model": {}, "emas": averages, "opt": {}, "args": flags}
  torch.save(content | {"epoch": 1, "step": 7}, tmp_path / "stg2.pt")
  out, flag = tmp_path / "facm", f"--statistics={statistics}"
  argv = "import-sit", tmp_path / "stg2.pt", flag
  assert f"student: {out}" in printed(*argv, "--student", f"--out={out}")
  assert not caplog.messages
  said = printed("sample", f"--workdir={out}", "--num=4", f"--out={tmp_path}/a")
  assert "2 network evaluations each" in said and "times 0.7854" in said
  # The second average's, rounded.
  config = resolve.resolve(sit.config(tensors, (MEAN, STD))).network
  wanted = sit.params_from_tensors(config, tensors)["denoiser"]["out"]
  found = scm_jax.load(out).params["denoiser"]["out"]
  error = np.abs(found["weight"] - wanted["weight"]).max()
  assert 0 < error < 2**-8 * np.abs(wanted["weight"]).max()
  # A student by the name of a teacher is noticed.
  command(*argv, f"--out={tmp_path}/teacher")
  assert "a student (--student)" in caplog.text


@pytest.mark.slow
def test_import_adapt_and_distil(torch, statistics, printed, refused, tmp_path):
  """The student has its teacher's network and data, by one argument."""
  file, run = tmp_path / "lightning.pt", tmp_path / "lightning"
  average = {n: torch.tensor(x) for n, x in draw(qk_norm=False).items()}
  flow = {"transport": {"path_type": "Linear", "prediction": "velocity"}}
  torch.save({"ema": average, "model": {}, "config": flow}, file)
  flag = f"--statistics={statistics}"
  said = printed("import-sit", file, flag, f"--out={run}")
  assert "latents of 8x8x4, 10 classes" in said
  data = json.loads((run / "config.json").read_text())["data"]
  assert (data["mean"], data["std"]) == (list(MEAN), list(STD))

  adapted, student = tmp_path / "adapted", tmp_path / "scd"
  of = f"data=imagenet256,teacher={run},tiny"
  config = f"--config=adapt:run=teacher,{of}"
  printed("train", config, f"--workdir={adapted}", "--config.total_steps=2")
  start = f"--config.start={adapted}", "--config.total_steps=2"
  config = f"--config=adapt:run=scd,{of}"
  printed("train", config, f"--workdir={student}", *start)
  assert scm_jax.load(student).sample([1, 2], steps=2).std() > 1
  network = json.loads((student / "config.json").read_text())["network"]
  assert (network["patch"], network["modulation"]) == (1, "double")

  line = refused(2, "train", f"{config},size=s", f"--workdir={tmp_path}/x")
  assert "teacher= says what size= and layers= would say" in line
  line = refused(2, "train", f"{config},guide", f"--workdir={tmp_path}/x")
  assert "a transformer guides itself" in line
  more = draw(False, channels=6)
  wide = ((0.0,) * 6, (1.0,) * 6)
  shaped = lambda x: np.reshape(np.float32(x), (1, -1, 1, 1))
  content = {"mean": shaped(wide[0]), "std": shaped(wide[1])}
  flag = f"--statistics={saved(torch, tmp_path / 'wide_stats.pt', content)}"
  file = saved(torch, tmp_path / "wide.pt", more)
  printed("import-sit", file, flag, f"--out={tmp_path}/wide")
  other = config.replace(str(run), f"{tmp_path}/wide")
  line = refused(2, "train", other, f"--workdir={tmp_path}/x")
  assert f"{tmp_path}/wide are 8x8x6; leave tiny out" in line
  line = refused(2, "train", config, f"--workdir={tmp_path}/x")
  assert "--config.start=WORKDIR" in line  # it was not adapted
  # FACM trains with the teacher's own layers.
  config = f"--config=imagenet256:run=facm,teacher={run},tiny"
  few = "--config.total_steps=2"
  printed("train", config, f"--workdir={tmp_path}/facm", few)


def test_mistakes(torch, statistics, refused, tmp_path):
  out = f"--out={tmp_path}/out"

  def line(tensors, *flags):
    file = saved(torch, tmp_path / "x.pt", tensors)
    return refused(1, "import-sit", file, *flags, out)

  tensors, flag = draw(qk_norm=False), f"--statistics={statistics}"
  assert "data of 6 channels, not of 4; give their mean" in line(draw(False, 6))
  assert "data of 6 channels, not of 4" in line(draw(False, 6), flag)
  assert "holds no mean and std" in line(
    tensors, f"--statistics={tmp_path}/x.pt"
  )
  for std, said in (
    ((1, 0, 1, 1), "no mean and std"),
    ((1, np.nan, 1, 1), "numbers that are no mean"),
    ((1, 1), "holds no mean and std"),
    (1, "holds no mean and std"),
  ):
    content = {"mean": np.zeros(np.shape(MEAN)), "std": np.float32(std)}
    content["mean"] = np.float32(0) if std == 1 else content["mean"]
    damaged = saved(torch, tmp_path / "damaged.pt", content)
    assert said in line(tensors, f"--statistics={damaged}")
  without = {n: x for n, x in tensors.items() if n != "blocks.1.norm2.weight"}
  assert "it has no blocks.1.norm2.weight" in line(without, flag)
  narrow = draw(False, hidden=HIDDEN - 40)
  assert f"is [{2 * (HIDDEN - 40)}] and not" in line(narrow, flag)
  halves = draw(False, hidden=230)["blocks.0.mlp.w12.weight"]
  unequal = draw(False, hidden=232) | {"blocks.0.mlp.w12.weight": halves}
  assert f"is [460, {WIDTH}] and not [464, {WIDTH}]" in line(unequal, flag)
  short = tensors["blocks.0.adaLN_modulation.1.weight"][: 4 * WIDTH]
  few = tensors | {"blocks.0.adaLN_modulation.1.weight": short}
  assert f"is [{4 * WIDTH}, {WIDTH}] and not" in line(few, flag)
  turned = tensors | {"feat_rope.freqs_sin": -tensors["feat_rope.freqs_sin"]}
  assert "feat_rope.freqs_sin are not those" in line(turned, flag)
  flow = {"transport": {"path_type": "GVP"}}
  torch.save({"ema": {}, "config": flow}, tmp_path / "x.pt")
  argv = "import-sit", tmp_path / "x.pt", flag, out
  assert "trained with path_type=GVP" in refused(1, *argv)
  assert not (tmp_path / "out").exists()
