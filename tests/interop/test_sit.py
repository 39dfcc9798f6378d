"""SiT's networks: what they give as ours, and the command `import-sit`."""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scm_jax
from scm_jax import networks
from scm_jax.interop import export_pytorch, safetensors, sit
from scm_jax.training import resolve

WIDTH, DEPTH, SIDE, CLASSES, PATCH = 64, 2, 8, 10, 2
TOKENS = (SIDE // PATCH) ** 2


@pytest.fixture(scope="module")
def torch():
  return pytest.importorskip("torch")


def layers(outputs):
  """The shapes of SiT's tensors, by its names, with so many channels out."""

  def dense(name, features, width=WIDTH):
    return {f"{name}.weight": (features, width), f"{name}.bias": (features,)}

  shapes = {
    "x_embedder.proj.weight": (WIDTH, 4, PATCH, PATCH),
    "x_embedder.proj.bias": (WIDTH,),
    "y_embedder.embedding_table.weight": (CLASSES + 1, WIDTH),
    **dense("t_embedder.mlp.0", WIDTH, 256),
    **dense("t_embedder.mlp.2", WIDTH),
    **dense("final_layer.linear", PATCH**2 * outputs),
    **dense("final_layer.adaLN_modulation.1", 2 * WIDTH),
  }
  for i in range(DEPTH):
    block = f"blocks.{i}"
    shapes |= dense(f"{block}.attn.qkv", 3 * WIDTH)
    shapes |= dense(f"{block}.attn.proj", WIDTH)
    shapes |= dense(f"{block}.mlp.fc1", 4 * WIDTH)
    shapes |= dense(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
    shapes |= dense(f"{block}.adaLN_modulation.1", 6 * WIDTH)
  return shapes


def places():
  """DiT's sinusoids of columns and then of rows, `[1, tokens, WIDTH]`."""
  rows, columns = np.divmod(np.arange(TOKENS), SIDE // PATCH)
  waves = 10_000.0 ** (-np.arange(WIDTH // 4) / (WIDTH // 4))
  angles = [np.outer(place, waves) for place in (columns, rows)]
  parts = [wave(a) for a in angles for wave in (np.sin, np.cos)]
  return np.concatenate(parts, -1)[None].astype(np.float32)


def draw(outputs=8):
  """Random tensors of a SiT, none of them zero."""
  rng = np.random.default_rng(0)
  tensors = {"pos_embed": places()}
  for name, shape in layers(outputs).items():
    scale = 0.3 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
    tensors[name] = (scale * rng.normal(size=shape)).astype(np.float32)
  return tensors


def expecting_nothing():
  """Tensors of a SiT that gives about the opposite of its input, at all times.

  Tokens hold their patches, larger than their places, and blocks do nothing.
  """
  tensors = {name: np.zeros_like(x) for name, x in draw().items()}
  tensors["pos_embed"] = places()
  outputs = tensors["final_layer.linear.weight"].reshape(PATCH**2, 8, WIDTH)
  for pixel in range(PATCH**2):
    row, column = divmod(pixel, PATCH)
    for channel in range(4):
      feature = 4 * pixel + channel
      into = tensors["x_embedder.proj.weight"][feature]
      into[channel, row, column] = 100.0
      # A token of 16 channels of magnitude 1, among 64, is normalised to 2.
      outputs[pixel, channel, feature] = -0.5
  return tensors


def of_repa(tensors):
  """The tensors, with the layers of REPA that sampling does not need."""
  return tensors | {"projectors.0.0.weight": np.ones((3, WIDTH), np.float32)}


def dense(tensors, name, x):
  return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def published(torch, tensors, y, time, label):
  """What the published network gives, `[B, H, W, 4]`, by diffusers' DiT."""
  diffusers = pytest.importorskip("diffusers")
  outputs = len(tensors["final_layer.linear.bias"]) // PATCH**2
  network = diffusers.DiTTransformer2DModel(
    num_attention_heads=1,
    attention_head_dim=WIDTH,
    in_channels=4,
    out_channels=outputs,
    num_layers=DEPTH,
    sample_size=SIDE,
    patch_size=PATCH,
    num_embeds_ada_norm=CLASSES,
    norm_eps=1e-6,
  )
  angles = np.outer(time, 10_000.0 ** (-np.arange(128) / 128))
  hidden = np.concatenate([np.cos(angles), np.sin(angles)], -1)
  hidden = dense(tensors, "t_embedder.mlp.0", hidden)
  hidden = dense(tensors, "t_embedder.mlp.2", hidden / (1 + np.exp(-hidden)))
  hidden += tensors["y_embedder.embedding_table.weight"][label]
  emb = torch.nn.Module()
  emb.forward = lambda *args, **kwargs: torch.tensor(hidden)
  for block in network.transformer_blocks:
    block.norm1.emb = emb
  network.double().load_state_dict(
    {name: torch.tensor(x) for name, x in renamed(tensors).items()}
  )
  with torch.no_grad():
    inputs = torch.tensor(np.asarray(y, np.float64)).movedim(-1, 1)
    return network(inputs).sample[:, :4].movedim(1, -1).numpy()


def renamed(tensors):
  """SiT's tensors by diffusers' names, of all but the embeddings."""
  found = {}
  of = lambda name: [(kind, f"{name}.{kind}") for kind in ("weight", "bias")]
  for theirs, name in {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
  }.items():
    found |= {f"{theirs}.{kind}": tensors[full] for kind, full in of(name)}
  for i in range(DEPTH):
    block, ours = f"transformer_blocks.{i}", f"blocks.{i}"
    for theirs, name in {
      "norm1.linear": "adaLN_modulation.1",
      "attn1.to_out.0": "attn.proj",
      "ff.net.0.proj": "mlp.fc1",
      "ff.net.2": "mlp.fc2",
    }.items():
      for kind, full in of(f"{ours}.{name}"):
        found[f"{block}.{theirs}.{kind}"] = tensors[full]
    for kind, full in of(f"{ours}.attn.qkv"):
      for part, x in zip("qkv", np.split(tensors[full], 3), strict=True):
        found[f"{block}.attn1.to_{part}.{kind}"] = x
  return found


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["learned variance", "plain", "repa"])
def test_parity_with_the_published_network(torch, kind):
  """As TrigFlow's, at TrigFlow's times; REPA's runs from data to noise."""
  tensors = draw(outputs=8 if kind == "learned variance" else 4)
  given = of_repa(tensors) if kind == "repa" else tensors
  config = resolve.resolve(sit.config(given)).network
  params = sit.params_from_tensors(config, given)
  rng = np.random.default_rng(1)
  u = rng.normal(size=(3, SIDE, SIDE, 4)).astype(np.float32)
  t, label = np.array([0.02, 0.8, 1.55]), np.array([0, 7, CLASSES])
  expand = lambda x: x[:, None, None, None]
  noise = np.sin(t) / (np.sin(t) + np.cos(t))  # a rectified flow's time
  y = expand(1 / (np.sin(t) + np.cos(t))) * u
  if kind == "repa":
    to_noise = published(torch, tensors, y, noise, label)
  else:
    to_noise = -published(torch, tensors, y, 1 - noise, label)
  # With data `a` and noise `e`: y = (1 - noise) a + noise e, to_noise = e - a.
  data = y - expand(noise) * to_noise
  noise_part = y + expand(1 - noise) * to_noise
  wanted = expand(np.cos(t)) * noise_part - expand(np.sin(t)) * data
  network = networks.build(config)
  F = jax.jit(network.F)(params, u, jnp.asarray(t, "f4"), {"label": label})
  error = np.abs(F - wanted).max() / np.sqrt(np.mean(wanted**2))
  assert error < 1e-5
  assert 0.3 < np.std(to_noise) < 5


def test_exports_have_the_published_names_and_shapes():
  """SiT's code loads them, as they came, into its network without variance."""
  tensors = draw(outputs=4)
  config = resolve.resolve(sit.config(tensors)).network
  params = sit.params_from_tensors(config, tensors)
  back = export_pytorch.dit_tensors(params["denoiser"], config)
  assert back.keys() == tensors.keys()
  np.testing.assert_allclose(
    back.pop("pos_embed"), tensors.pop("pos_embed"), atol=1e-6
  )
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(back[name], tensor)


@pytest.fixture(scope="module")
def file(torch, tmp_path_factory):
  """A training checkpoint with a network's average."""
  path = tmp_path_factory.mktemp("sit") / "SiT.pt"
  average = {name: torch.tensor(x) for name, x in draw().items()}
  torch.save({"ema": average, "model": {}, "opt": {}, "args": flags()}, path)
  return path


def flags(path="Linear"):
  """The flags that SiT's training script saves beside the weights."""
  return argparse.Namespace(path_type=path, prediction="velocity")


SMALL = (f"--config.network.channels={WIDTH}", "--config.total_steps=2")
SMALL = (*SMALL, "--config.network.channels_per_head=64")


@pytest.mark.slow
def test_import_sample_and_distil(file, printed, refused, tmp_path):
  run, student = tmp_path / "sit", tmp_path / "scd"
  said = printed("import-sit", file, f"--out={run}")
  assert "latents of 8x8x4, 10 classes" in said and str(run) in said
  assert json.loads((run / "origin.json").read_text())["file"] == "SiT.pt"
  argv = f"--workdir={run}", "--num=4", "--steps=3"
  printed("sample", *argv, "--guidance=1.5", f"--out={tmp_path}/a")
  printed("sample", *argv, f"--out={tmp_path}/b")
  guided, plain = (
    np.load(tmp_path / name / "samples.npz")["samples"].astype(int)
    for name in "ab"
  )
  assert plain.std() > 5 and np.abs(guided - plain).mean() > 0.1

  out = tmp_path / "export"
  printed("export", f"--workdir={run}", f"--out={out}", "--num=0")
  card = (out / "README.md").read_text()
  assert "imported from `SiT.pt`, in the coordinates of" in card
  assert "SiT state dict" in card and "training step" not in card
  again = tmp_path / "again"
  argv = f"--workdir={out}", f"--out={again}", "--formats=safetensors"
  printed("export", *argv, "--num=0")
  assert "imported from `SiT.pt`" in (again / "README.md").read_text()

  config = "--config=imagenet256:run=scd,tiny,layers="
  argv = (*SMALL, f"--config.teacher={run}", f"--workdir={student}")
  line = refused(2, "train", f"{config}dit", *argv)
  assert "was trained on data scaled as" in line
  data = "--config.data.std=(5.48998,5.48998,5.48998,5.48998)"
  data = (data, "--config.data.mean=(0.0,0.0,0.0,0.0)")
  line = refused(2, "train", f"{config}dit", *argv, *data)
  assert "--config.network.form=sit" in line
  other = [flag for flag in argv if "channels_per_head" not in flag]
  line = refused(2, "train", f"{config}sit", *other)
  assert "set --config.network.channels_per_head=64" in line
  printed("train", f"{config}sit", *argv)
  assert scm_jax.load(student).sample([1, 2], steps=2).std() > 1
  # It began as its teacher.
  metrics = (student / "metrics.jsonl").read_text().splitlines()
  assert np.isfinite(json.loads(metrics[-1])["loss"])


def test_what_a_network_expects_of_noise(torch, command, caplog, tmp_path):
  """SiT's gives the noise back and little else; a random one does not."""
  for name, tensors in (("random", draw()), ("right", expecting_nothing())):
    file = tmp_path / f"{name}.pt"
    torch.save({n: torch.tensor(x) for n, x in tensors.items()}, file)
    caplog.clear()
    assert command("import-sit", file, f"--out={tmp_path}/{name}")[0] == 0
    warned = any("is it a DiT network" in line for line in caplog.messages)
    assert warned == (name == "random")


def test_bfloat16_rounds_the_sinusoids(tmp_path):
  path = tmp_path / "x.safetensors"
  with open(path, "wb") as stream:
    rounded = {n: x.astype(jnp.bfloat16) for n, x in draw().items()}
    safetensors.write(stream, rounded)
  tensors = sit.read(path)
  sit.params_from_tensors(resolve.resolve(sit.config(tensors)).network, tensors)


def test_exports_are_not_imported(refused, tmp_path):
  """Their tensors do not tell the form, the norm or the rotation."""
  folder = tmp_path / "export" / "unet"
  folder.mkdir(parents=True)
  (folder / "config.json").write_text('{"_class_name": "DiTTrigFlow"}')
  with open(folder / "x.safetensors", "wb") as stream:
    safetensors.write(stream, draw())
  argv = "import-sit", folder / "x.safetensors", f"--out={tmp_path}/out"
  assert f"{tmp_path / 'export'}, is a workdir" in refused(1, *argv)


def test_mistakes(torch, refused, tmp_path):
  def line(tensors, name="x.pt"):
    content = {n: torch.tensor(x) for n, x in tensors.items()}
    torch.save(content, tmp_path / name)
    argv = "import-sit", tmp_path / name, f"--out={tmp_path}/out"
    return refused(1, *argv)

  tensors = draw()
  assert "it has no x_embedder.proj.weight" in line({"a": np.ones(3)})
  less = {n: x for n, x in tensors.items() if n != "blocks.1.mlp.fc1.bias"}
  assert "it has no blocks.1.mlp.fc1.bias" in line(less)
  more = tensors | {"r_embedder.mlp.0.bias": np.ones(64, np.float32)}
  assert "it also has r_embedder.mlp.0.bias" in line(more)
  moved = tensors | {"pos_embed": tensors["pos_embed"][:, ::-1].copy()}
  assert "are not the sinusoids of DiT" in line(moved)
  flat = tensors | {"x_embedder.proj.weight": np.ones((WIDTH, 16), np.float32)}
  assert "has 2 axes and not 4" in line(flat)
  for name in ("pos_embed", "y_embedder.embedding_table.weight"):
    none = tensors[name][..., :0, :]
    assert f"its {name} is empty" in line(tensors | {name: none})
  many = {f"blocks.{i}.x": np.ones(1) for i in range(3000)}
  assert "it has no blocks.2.attn.qkv.weight" in line(tensors | many)
  torch.save({"ema": {}, "args": flags("GVP")}, tmp_path / "gvp.pt")
  argv = "import-sit", tmp_path / "gvp.pt", f"--out={tmp_path}/out"
  assert "trained with path_type=GVP" in refused(1, *argv)
  assert "No such file" in refused(
    1, "import-sit", tmp_path / "none.pt", f"--out={tmp_path}/out"
  )
  assert not (tmp_path / "out").exists()
