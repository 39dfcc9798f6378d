"""The weights of DINOv2's transformer, from each of the public files.

| file | names of its tensors |
|---|---|
| Facebook's `dinov2_vitl14_pretrain.pth` | those of Facebook's code |
| `model.safetensors` of `facebook/dinov2-large` | those of transformers |
"""

import re
from collections.abc import Mapping, MutableMapping

import jax
import numpy as np

from scm_jax.interop.state_dict import Misfit, take
from scm_jax.metrics import dinov2

FETCH = (
  "fetch https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/"
  "dinov2_vitl14_pretrain.pth"
)

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


def params(tensors: Mapping[str, np.ndarray]) -> dinov2.Params:
  """Returns the network's parameters; those of blocks are stacked [depth, ...].

  Args:
    tensors: arrays by Facebook's names or those of transformers.

  Raises:
    Misfit: the tensors belong to another network.
  """
  left = {to_facebook(name): tensor for name, tensor in tensors.items()}
  _join_qkv(left)
  _refuse_others(left)
  left.pop("mask_token", None)  # only training uses it
  width = left["cls_token"].shape[-1]

  def vector(name):
    return take(left, name, (width,))

  def norm(name):
    return {"scale": vector(f"{name}.weight"), "bias": vector(f"{name}.bias")}

  def linear(name, features_in, features):
    kernel = take(left, f"{name}.weight", (features, features_in)).T
    return {"kernel": kernel, "bias": take(left, f"{name}.bias", (features,))}

  def block(name):
    hidden = len(left.get(f"{name}.mlp.fc1.bias", ()))
    return {
      "norm1": norm(f"{name}.norm1"),
      "qkv": linear(f"{name}.attn.qkv", width, 3 * width),
      "proj": linear(f"{name}.attn.proj", width, width),
      "scale1": vector(f"{name}.ls1.gamma"),
      "norm2": norm(f"{name}.norm2"),
      "fc1": linear(f"{name}.mlp.fc1", width, hidden),
      "fc2": linear(f"{name}.mlp.fc2", hidden, width),
      "scale2": vector(f"{name}.ls2.gamma"),
    }

  blocks = []
  while any(name.startswith(f"blocks.{len(blocks)}.") for name in left):
    blocks.append(block(f"blocks.{len(blocks)}"))
  if not blocks:
    raise Misfit("it has no blocks.0")
  filters = (width, 3, dinov2.PATCH, dinov2.PATCH)
  found = {
    "class": take(left, "cls_token", (1, 1, width)),
    "positions": _positions(left, width),
    "patch": {
      "kernel": take(left, "patch_embed.proj.weight", filters).transpose(
        2, 3, 1, 0
      ),
      "bias": vector("patch_embed.proj.bias"),
    },
    "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
    "norm": norm("norm"),
  }
  if left:
    raise Misfit(f"it has {min(left)}, which DINOv2's ViT-L/14 does not have")
  return found


def to_facebook(name: str) -> str:
  """Returns Facebook's name of the tensor that transformers call `name`."""
  for pattern, theirs in _TO_FACEBOOK:
    name = re.sub(pattern, theirs, name)
  return name


def _join_qkv(left: MutableMapping[str, np.ndarray]) -> None:
  """Joins query, key and value to one layer, as Facebook has them."""
  for name in [n for n in left if ".attn.query." in n]:
    parts = [name.replace("query", part) for part in ("query", "key", "value")]
    if missing := [part for part in parts if part not in left]:
      raise Misfit(f"it has {name} but no {missing[0]}")
    whole = np.concatenate([left.pop(part) for part in parts])
    left[name.replace("query", "qkv")] = whole


def _refuse_others(left: Mapping[str, np.ndarray]) -> None:
  if "cls_token" not in left or left["cls_token"].ndim != 3:
    raise Misfit("it has no cls_token")
  width = left["cls_token"].shape[-1]
  if "register_tokens" in left:
    raise Misfit("it has registers; FD-DINOv2 is defined without them")
  if width in _OTHERS:
    raise Misfit(f"it is {_OTHERS[width]}; FD-DINOv2 is defined with ViT-L/14")
  if width % dinov2.HEAD:
    raise Misfit(f"its width {width} is not a multiple of {dinov2.HEAD}")


def _positions(left, width):
  count = left["pos_embed"].shape[1] if "pos_embed" in left else 0
  whole = take(left, "pos_embed", (1, count, width))[0]
  try:
    dinov2.grid_side(count - 1)
  except ValueError as error:
    raise Misfit(f"its pos_embed has {error}") from error
  return whole


def extractor(
  tensors: Mapping[str, np.ndarray], name: str = "dinov2"
) -> dinov2.Dinov2Extractor:
  """Returns the extractor that a file's tensors make.

  Args:
    tensors: arrays as for `params`.
    name: the extractor's name, which says how images are resized.

  Raises:
    Misfit: the tensors belong to another network.
  """
  return dinov2.Dinov2Extractor(jax.device_put(params(tensors)), name)
