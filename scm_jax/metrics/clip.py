"""CLIP's vision transformer, whose image embeddings CMMD is computed from.

Embeddings are projections of the class token, scaled to unit length: 768
numbers of ViT-L/14 (arXiv 2103.00020) for images of 336 pixels, as CMMD's
authors take them (arXiv 2401.09603). Images are resized as by their code:
antialiased bicubic, in floats. Public weights have the names of transformers
(`pytorch_model.bin` of `openai/clip-vit-large-patch14-336`); what the file
holds of the text's network is left out.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from scm_jax.interop.state_dict import Misfit, Tensors, take
from scm_jax.metrics import resize, vit
from scm_jax.metrics.extractor import Extractor
from scm_jax.metrics.inception import as_rgb
from scm_jax.metrics.vit import Params

NAMES = ("clip",)
URL = (
  "https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/main/"
  "pytorch_model.bin"
)
WIDTH, SIDE, PATCH = 1024, 336, 14  # of the network that CMMD is defined with
EPS = 1e-5  # added to variances by the layer normalisations
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pixels CLIP was trained on
STD = (0.26862954, 0.26130258, 0.27577711)


def prepare(images: Array, side: int = SIDE) -> Array:
  """Returns the network's input [B, side, side, 3] of uint8 [B, H, W, C].

  C must be 3, or 1, which is repeated.
  """
  images = as_rgb(images)
  matrices = (resize.bicubic_antialiased(n, side) for n in images.shape[1:3])
  x = resize.resize(images, *matrices)
  return (x / 255.0 - jnp.asarray(MEAN)) / jnp.asarray(STD)


def embed(params: Params, x: Array) -> Array:
  """Computes the embeddings [B, dim] of what `prepare` returns, unscaled."""
  x = vit.prepend(params["class"], vit.patches(params["patch"], x))
  x = vit.normalize(params["norm_in"], x + params["positions"], EPS)
  # A scan compiles one block, however many there are.
  x, _ = lax.scan(lambda x, p: (_block(p, x), None), x, params["blocks"])
  token = vit.normalize(params["norm_out"], x[:, 0], EPS)
  return jnp.dot(token, params["projection"], precision=lax.Precision.HIGHEST)


def _block(p: Params, x: Array) -> Array:
  x = x + vit.attention(p, vit.normalize(p["norm1"], x, EPS))
  hidden = vit.linear(p["fc1"], vit.normalize(p["norm2"], x, EPS))
  # CLIP's approximation of GELU.
  return x + vit.linear(p["fc2"], hidden * jax.nn.sigmoid(1.702 * hidden))


def outputs(params: Params, images: Array) -> dict[str, Array]:
  """Computes embeddings [B, dim] of unit length of uint8 images.

  They are `features`, and also `embeddings`, which are CLIP's alone.
  """
  side = PATCH * math.isqrt(len(params["positions"]) - 1)
  found = embed(params, prepare(images, side))
  found = found / jnp.linalg.norm(found, axis=-1, keepdims=True)
  return {"features": found, "embeddings": found}


def from_tensors(tensors: Tensors) -> Params:
  """Returns the network's parameters; those of blocks are stacked [depth, ...].

  Tensors have the names of transformers.

  Raises:
    Misfit: the tensors belong to another network.
  """
  left = {
    name.removeprefix("vision_model."): tensor
    for name, tensor in tensors.items()
    if name.startswith(("vision_model.", "visual_projection."))
    and not name.endswith("position_ids")
  }
  if "embeddings.class_embedding" not in left:
    raise Misfit("it has no vision_model.embeddings.class_embedding")
  reader = vit.Reader(left, len(left["embeddings.class_embedding"]))
  width = reader.width

  def block(name: str) -> Params:
    parts = (f"{name}.self_attn.{part}_proj" for part in "qkv")
    qkv = [reader.linear(part, width, width) for part in parts]
    return {
      "norm1": reader.norm(f"{name}.layer_norm1"),
      "qkv": jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *qkv),
      "proj": reader.linear(f"{name}.self_attn.out_proj", width, width),
      "norm2": reader.norm(f"{name}.layer_norm2"),
      **reader.mlp(f"{name}.mlp"),
    }

  dim = len(left.get("visual_projection.weight", ()))
  found = {
    "class": reader.vector("embeddings.class_embedding"),
    "positions": _positions(reader),
    "patch": reader.filters("embeddings.patch_embedding.weight", PATCH),
    "norm_in": reader.norm("pre_layrnorm"),
    "blocks": reader.blocks("encoder.layers", block),
    "norm_out": reader.norm("post_layernorm"),
    "projection": take(left, "visual_projection.weight", (dim, width)).T,
  }
  if left:
    raise Misfit(f"it has {min(left)}, which CLIP's ViT-L/14 does not have")
  return found


def _positions(reader: vit.Reader) -> np.ndarray:
  """Returns the embedding of the class and the patches, [1 + patches, D]."""
  found = reader.positions("embeddings.position_embedding.weight")
  side = PATCH * math.isqrt(len(found) - 1)
  if reader.width == WIDTH and side != SIDE:
    raise Misfit(
      f"it is for images of {side} pixels; CMMD is defined with the network "
      f"for {SIDE}"
    )
  return found


def extractor(tensors: Tensors, name: str) -> Extractor:
  """Returns the extractor; see `from_tensors` for its weights."""
  params = jax.device_put(from_tensors(tensors))
  dim = params["projection"].shape[1]
  return Extractor(name, dim, params, outputs, ("features", "embeddings"))
