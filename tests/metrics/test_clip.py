"""CLIP's vision transformer against transformers', and CMMD."""

import jax
import numpy as np
import pytest

from scm_jax import errors
from scm_jax.interop.state_dict import Misfit
from scm_jax.metrics import clip, cmmd, extractors

WIDTH, DEPTH, HIDDEN, DIM, GRID = 128, 2, 256, 48, 3


@pytest.fixture(scope="module")
def tensors():
  """Random tensors by transformers' names, with those of the text's network."""
  rng = np.random.default_rng(0)
  layer = lambda o, *i: rng.normal(size=(o, *i)) / np.sqrt(np.prod(i))
  vector = lambda n=WIDTH, mean=0.0: mean + 0.3 * rng.normal(size=n)
  found = {
    "embeddings.class_embedding": vector(),
    "embeddings.patch_embedding.weight": layer(WIDTH, 3, 14, 14),
    "embeddings.position_embedding.weight": rng.normal(
      size=(1 + GRID**2, WIDTH)
    ),
    "embeddings.position_ids": np.arange(1 + GRID**2)[None],
  }
  for norm in ("pre_layrnorm", "post_layernorm"):
    found |= {f"{norm}.weight": vector(mean=1), f"{norm}.bias": vector()}
  for i in range(DEPTH):
    name = f"encoder.layers.{i}"
    for norm in ("layer_norm1", "layer_norm2"):
      found[f"{name}.{norm}.weight"] = vector(mean=1)
      found[f"{name}.{norm}.bias"] = vector()
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
      found[f"{name}.self_attn.{part}.weight"] = 2 * layer(WIDTH, WIDTH)
      found[f"{name}.self_attn.{part}.bias"] = vector()
    found[f"{name}.mlp.fc1.weight"] = layer(HIDDEN, WIDTH)
    found[f"{name}.mlp.fc1.bias"] = vector(HIDDEN)
    found[f"{name}.mlp.fc2.weight"] = layer(WIDTH, HIDDEN)
    found[f"{name}.mlp.fc2.bias"] = vector()
  found = {f"vision_model.{name}": tensor for name, tensor in found.items()}
  found["visual_projection.weight"] = layer(DIM, WIDTH)
  found |= {"logit_scale": np.ones(()), "text_projection.weight": np.eye(3)}
  found["text_model.final_layer_norm.bias"] = np.ones(3)
  return {name: np.asarray(t, np.float32) for name, t in found.items()}


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(1)
  return rng.integers(0, 256, (3, 20, 64, 3), np.uint8)


def test_embeddings_as_transformers(tensors, images):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  config = transformers.CLIPVisionConfig(
    hidden_size=WIDTH,
    intermediate_size=HIDDEN,
    num_hidden_layers=DEPTH,
    num_attention_heads=WIDTH // 64,
    image_size=14 * GRID,
    patch_size=14,
    projection_dim=DIM,
  )
  network = transformers.CLIPVisionModelWithProjection(config).eval()
  vision = ("vision_model", "visual_projection")
  state = {n: torch.from_numpy(t) for n, t in tensors.items()}
  state = {n: t for n, t in state.items() if n.startswith(vision)}
  state.pop("vision_model.embeddings.position_ids")
  network.load_state_dict(state)
  x = np.moveaxis(np.asarray(clip.prepare(images, 14 * GRID)), -1, 1).copy()
  with torch.no_grad():
    expected = network(torch.from_numpy(x)).image_embeds.numpy()
  extractor = clip.extractor(tensors, "clip")
  assert extractor.dim == DIM
  outputs = jax.jit(extractor.apply)(extractor.params, images)
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  np.testing.assert_allclose(outputs["features"], expected, atol=2e-5)
  np.testing.assert_array_equal(outputs["embeddings"], outputs["features"])


def test_images_are_resized_as_by_cmmds_authors(images):
  expected = jax.image.resize(images / 255.0, (3, 42, 42, 3), "bicubic")
  expected = (expected - np.array(clip.MEAN)) / np.array(clip.STD)
  np.testing.assert_allclose(clip.prepare(images, 42), expected, atol=1e-4)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"embeddings.class_embedding": None}, "no vision_model.embeddings.class"),
    ({"embeddings.class_embedding": np.ones(96)}, "96 is not a multiple of 64"),
    (
      {"embeddings.position_embedding.weight": np.ones((12, WIDTH))},
      "has 11 patches, which do not form a square",
    ),
    ({"encoder.layers.1.mlp.fc2.bias": None}, r"no encoder\.layers\.1\.mlp"),
    ({"encoder.layers.0.self_attn.k_proj.bias": np.full(WIDTH, np.nan)}, "nan"),
    ({"head.weight": np.ones(1)}, "it has head.weight, which CLIP's"),
  ],
)
def test_tensors_of_another_network(tensors, change, message):
  changed = tensors | {f"vision_model.{n}": t for n, t in change.items()}
  changed = {n: t for n, t in changed.items() if t is not None}
  message = message.replace("nan", "k_proj.bias is not finite")
  with pytest.raises(Misfit, match=message):
    clip.from_tensors(changed)


def test_the_network_for_smaller_images_is_not_cmmds(tensors, tmp_path):
  width = clip.WIDTH
  small = {
    "vision_model.embeddings.class_embedding": np.ones(width),
    "vision_model.embeddings.position_embedding.weight": np.ones((257, width)),
  }
  with pytest.raises(Misfit, match="for images of 224 pixels; CMMD is defined"):
    clip.from_tensors(small)
  with pytest.raises(errors.UserError, match="clip-vit-large-patch14-336"):
    extractors.load("clip", tmp_path / "missing.bin")


def _plain(x, y):
  """The formula, over all pairs at once."""
  kernel = lambda a, b: np.exp(
    -np.sum((a[:, None] - b[None]) ** 2, axis=-1) / 200
  )
  within = kernel(x, x).mean() + kernel(y, y).mean()
  return 1000 * (within - 2 * kernel(x, y).mean())


def test_cmmd_is_the_formula_and_grows_with_the_distance():
  rng = np.random.default_rng(2)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  x, y = unit(rng.normal(size=(50, 16))), unit(rng.normal(size=(70, 16)))
  assert cmmd.cmmd(x, y) == pytest.approx(_plain(x, y), rel=1e-9)
  assert cmmd.cmmd(x, x) == pytest.approx(0.0, abs=1e-9)
  shifts = [unit(y + shift) for shift in (0.0, 0.2, 0.5)]
  found = [cmmd.cmmd(x, shifted) for shifted in shifts]
  assert found == sorted(found) and found[2] > 3 * found[0]
