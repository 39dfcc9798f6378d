"""A transformer's parameters by PyTorch's names and by ours.

The names are those of SiT's code (arXiv 2401.08740), and LightningDiT's (arXiv
2501.01423) for the layers that SiT does not have. Besides, the axes differ:
PyTorch's matrices are `[out, in]`, and the layer of patches is a convolution
there.
"""

from typing import Any

from scm_jax import networks
from scm_jax.interop import state_dict

Path = tuple[str, ...]  # of a parameter of the denoiser
FILTER = "x_embedder.proj.weight"
TABLE = "y_embedder.embedding_table.weight"
PLACES = "pos_embed"  # the sinusoids of tokens, which are no parameter of ours
# By our path, of a parameter or of the layer that it belongs to.
_OUTSIDE = {
  "patches": "x_embedder.proj",
  "embedding/emb_noise": "t_embedder.mlp.0",
  "embedding/emb_hidden": "t_embedder.mlp.2",
  # Theirs have no inputs of a guidance scale or a second time; our exports do.
  "embedding/emb_guidance": "guidance_embedder",
  "embedding/emb_target": "target_embedder",
  "embedding/emb_label": TABLE,
  "modulation/emb": "final_layer.adaLN_modulation.1",
  "out": "final_layer.linear",
}
_IN_BLOCK = {
  "modulation/emb": "adaLN_modulation.1",
  "attention/qkv": "attn.qkv",
  "attention/q_scale": "attn.q_norm.weight",
  "attention/k_scale": "attn.k_norm.weight",
  "attention/proj": "attn.proj",
}
_IN_MLP = {
  "gelu": {"mlp/fc1": "mlp.fc1", "mlp/fc2": "mlp.fc2"},
  "swiglu": {"mlp/fc1": "mlp.w12", "mlp/fc2": "mlp.w3"},
}


def to_name(path: Path, network: networks.DiTConfig) -> str:
  """Returns PyTorch's name of the parameter at `path`."""
  prefix, names = "", _OUTSIDE
  if path[0].startswith("block_"):
    prefix = f"blocks.{path[0].removeprefix('block_')}."
    path, names = path[1:], _IN_BLOCK | _IN_MLP[network.mlp]
  ours = "/".join(path)
  if ours in names:
    return prefix + names[ours]
  layer, _, kind = ours.rpartition("/")
  return f"{prefix}{names[layer]}.{kind}"


def to_theirs(array: Any, path: Path, network: networks.DiTConfig) -> Any:
  """Converts our array at `path` to PyTorch's axes."""
  name = to_name(path, network)
  if name == TABLE:
    return array
  if name == FILTER:  # a patch has rows, columns and channels
    side, channels = network.patch, network.in_channels
    array = array.reshape(side, side, channels, network.channels)
  return state_dict.to_theirs(array)
