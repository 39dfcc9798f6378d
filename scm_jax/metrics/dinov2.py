"""DINOv2's vision transformer, whose features FD-DINOv2 is computed from.

Features are the class token after the last normalisation: 1024 numbers of
ViT-L/14 (arXiv 2304.07193) for images of 224 pixels (arXiv 2306.04675).

| name | resized to 224 | used by |
|---|---|---|
| `dinov2` | torch's antialiased bicubic, in floats | EDM2 |
| `dinov2-dgm-eval` | Pillow's bicubic, rounded to bytes | dgm-eval |

The two filters are the same; only the second one clips and rounds. Public
weights have the names of Facebook's code (`dinov2_vitl14_pretrain.pth`) or of
transformers (`model.safetensors` of `facebook/dinov2-large`).
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from scm_jax.interop.state_dict import Misfit, Tensors, take
from scm_jax.metrics import resize, vit
from scm_jax.metrics.extractor import Extractor
from scm_jax.metrics.inception import as_rgb
from scm_jax.metrics.vit import Params

NAMES = ("dinov2", "dinov2-dgm-eval")
URL = (
  "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/"
  "dinov2_vitl14_pretrain.pth"
)
SIDE, PATCH = 224, 14
EPS = 1e-6  # added to variances by the layer normalisations
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels
# Facebook's code adds this to the number of patches a side when it resamples
# the position embedding, and the published features are computed that way.
OFFSET = 0.1


def prepare(images: Array, name: str = "dinov2") -> Array:
  """Returns the network's input [B, 224, 224, 3] of uint8 [B, H, W, C].

  The name says by which convention. C must be 3, or 1, which is repeated.
  """
  images = as_rgb(images)
  if name == "dinov2-dgm-eval":
    x = resize.bicubic_pillow(images, SIDE, SIDE).astype(jnp.float32)
  else:
    matrices = (resize.bicubic_antialiased(n, SIDE) for n in images.shape[1:3])
    x = resize.resize(images, *matrices)
  return (x / 255.0 - jnp.asarray(MEAN)) / jnp.asarray(STD)


def tokens(params: Params, x: Array) -> Array:
  """Computes all tokens [B, 1 + patches, D] after the last normalisation.

  The input is what `prepare` returns, or of another side that 14 divides.
  """
  x = vit.patches(params["patch"]["kernel"], x) + params["patch"]["bias"]
  side = x.shape[1]
  x = vit.prepend(params["class"], x) + positions(params["positions"], side)
  # A scan compiles one block, however many there are.
  x, _ = lax.scan(lambda x, p: (_block(p, x), None), x, params["blocks"])
  return vit.normalize(params["norm"], x, EPS)


def positions(embedding: Array, side: int) -> Array:
  """Returns the embedding of the class and side x side patches, [1 + side², D].

  That of the M x M patches that the network was trained with, [1 + M², D], is
  resampled (torch's bicubic).
  """
  trained = math.isqrt(len(embedding) - 1)
  if trained == side:
    return embedding
  matrix = resize.bicubic_torch(trained, side, trained / (side + OFFSET))
  grid = embedding[1:].reshape(1, trained, trained, -1)
  grid = resize.resize(grid, matrix, matrix).reshape(side * side, -1)
  return jnp.concatenate([embedding[:1], grid])


def _block(p: Params, x: Array) -> Array:
  """Applies attention and an MLP, each scaled and added to its input."""
  x = x + vit.attention(p, vit.normalize(p["norm1"], x, EPS)) * p["scale1"]
  hidden = vit.linear(p["fc1"], vit.normalize(p["norm2"], x, EPS))
  hidden = jax.nn.gelu(hidden, approximate=False)
  return x + vit.linear(p["fc2"], hidden) * p["scale2"]


def outputs(
  params: Params, images: Array, name: str = "dinov2"
) -> dict[str, Array]:
  """Computes `features` [B, dim], the class token, of uint8 images."""
  return {"features": tokens(params, prepare(images, name))[:, 0]}


# Published transformers other than the one of FD-DINOv2, by their width.
_OTHERS = {384: "ViT-S/14", 768: "ViT-B/14", 1536: "ViT-g/14"}
# From transformers' names to Facebook's; attention has old and new names.
_TO_FACEBOOK = (
  (r"^dinov2\.", ""),
  (r"^embeddings\.cls_token", "cls_token"),
  (r"^embeddings\.mask_token", "mask_token"),
  (r"^embeddings\.position_embeddings", "pos_embed"),
  (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
  (r"^layernorm\.", "norm."),
  (r"^encoder\.layer\.", "blocks."),
  (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
  (r"\.attention\.q_proj\.", ".attn.query."),
  (r"\.attention\.k_proj\.", ".attn.key."),
  (r"\.attention\.v_proj\.", ".attn.value."),
  (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
  (r"\.layer_scale([12])\.lambda1", r".ls\1.gamma"),
)


def from_tensors(tensors: Tensors) -> Params:
  """Returns the network's parameters; those of blocks are stacked [depth, ...].

  Tensors have Facebook's names or those of transformers.

  Raises:
    Misfit: the tensors belong to another network.
  """
  left = {_to_facebook(name): tensor for name, tensor in tensors.items()}
  _join_qkv(left)
  _refuse_others(left)
  left.pop("mask_token", None)  # only training uses it
  reader = vit.Reader(left, left["cls_token"].shape[-1])
  width = reader.width

  def block(name: str) -> Params:
    return {
      "norm1": reader.norm(f"{name}.norm1"),
      "qkv": reader.linear(f"{name}.attn.qkv", width, 3 * width),
      "proj": reader.linear(f"{name}.attn.proj", width, width),
      "scale1": reader.vector(f"{name}.ls1.gamma"),
      "norm2": reader.norm(f"{name}.norm2"),
      **reader.mlp(f"{name}.mlp"),
      "scale2": reader.vector(f"{name}.ls2.gamma"),
    }

  found = {
    "class": take(left, "cls_token", (1, 1, width)),
    "positions": reader.positions("pos_embed", 1),
    "patch": {
      "kernel": reader.filters("patch_embed.proj.weight", PATCH),
      "bias": reader.vector("patch_embed.proj.bias"),
    },
    "blocks": reader.blocks("blocks", block),
    "norm": reader.norm("norm"),
  }
  if left:
    raise Misfit(f"it has {min(left)}, which DINOv2's ViT-L/14 does not have")
  return found


def _to_facebook(name: str) -> str:
  for pattern, theirs in _TO_FACEBOOK:
    name = re.sub(pattern, theirs, name)
  return name


def _join_qkv(left: Tensors) -> None:
  """Joins query, key and value to one layer, as Facebook has them."""
  for name in [n for n in left if ".attn.query." in n]:
    parts = [name.replace("query", part) for part in ("query", "key", "value")]
    if missing := [part for part in parts if part not in left]:
      raise Misfit(f"it has {name} but no {missing[0]}")
    whole = np.concatenate([left.pop(part) for part in parts])
    left[name.replace("query", "qkv")] = whole


def _refuse_others(left: Tensors) -> None:
  if "cls_token" not in left or left["cls_token"].ndim != 3:
    raise Misfit("it has no cls_token")
  width = left["cls_token"].shape[-1]
  if "register_tokens" in left:
    raise Misfit("it has registers; FD-DINOv2 is defined without them")
  if width in _OTHERS:
    raise Misfit(f"it is {_OTHERS[width]}; FD-DINOv2 is defined with ViT-L/14")


def extractor(tensors: Tensors, name: str = "dinov2") -> Extractor:
  """Returns the extractor of this name; see `from_tensors` for its weights."""
  params = jax.device_put(from_tensors(tensors))
  apply = functools.partial(outputs, name=name)
  return Extractor(name, params["class"].shape[-1], params, apply)
