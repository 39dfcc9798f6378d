"""Public SiT networks as tensors, and configs of ours for them.

SiT (arXiv 2401.08740) is a transformer that gives a rectified flow's velocity,
on latents of ImageNet 256 or 512. Its files hold a state dict, by itself or as
`ema`. REPA (arXiv 2410.06940) trains the same network with the time and the
velocity turned around, beside `projectors` that sampling does not need; both
are turned here, in the weights that read the time and give the velocity.
"""

import math
import os
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from scm_jax import errors, networks
from scm_jax.defaults import get_defaults
from scm_jax.interop import state_dict, torch_archive, unpickling
from scm_jax.interop.state_dict import Misfit, Tensors
from scm_jax.networks import dit, presets

# The network's data are 0.18215 times the latents.
DATA = {
  "kind": "latents",
  "channels": 4,
  "mean": (0.0,) * 4,
  "std": (5.48998,) * 4,
  "image_range": (-1.0, 1.0),
}
# The most that a network may expect of noise alone. By the constants of latents
# in arXiv 2410.11081 (Section G.1), data have a magnitude of 0.9 and their mean
# one of 0.2; no public file was at hand to measure it.
MOST_OF_NOISE = 0.6
_NAMES = {
  "patches": "x_embedder.proj",
  "embedding/emb_noise": "t_embedder.mlp.0",
  "embedding/emb_hidden": "t_embedder.mlp.2",
  "modulation/emb": "final_layer.adaLN_modulation.1",
  "out": "final_layer.linear",
}
_IN_BLOCK = {
  "modulation/emb": "adaLN_modulation.1",
  "attention/qkv": "attn.qkv",
  "attention/proj": "attn.proj",
  "mlp/fc1": "mlp.fc1",
  "mlp/fc2": "mlp.fc2",
}
_FILTER, _TABLE = "x_embedder.proj.weight", "y_embedder.embedding_table.weight"
_PLACES, _PROJECTORS = "pos_embed", "projectors."
# Flags of SiT's and REPA's training scripts, with the values that are read.
_FLAGS = {"path_type": ("Linear", "linear"), "prediction": ("velocity", "v")}


def read(path: str | os.PathLike[str]) -> Tensors:
  """Reads a network's tensors, by SiT's names; nothing in it is executed.

  Raises:
    UserError: the file cannot be read, is damaged, or holds something else.
  """
  if str(path).endswith(".safetensors"):
    return state_dict.read(path)
  with errors.reading(path), open(path, "rb") as file:
    content = torch_archive.load(file, state_dict.ADMITTED)
    if isinstance(content, dict) and isinstance(content.get("ema"), dict):
      _check_flags(content.get("args"))
      content = content["ema"]
    return state_dict.named_tensors(content)


def _check_flags(args: Any) -> None:
  """Raises Refused for a training script's flags of another network."""
  flags = args.state if isinstance(args, unpickling.Record) else {}
  for name, ours in _FLAGS.items():
    value = flags.get(name, ours[0])
    if value not in ours:
      raise unpickling.Refused(
        f"it was trained with {name}={value}, and only {ours[0]} can be read"
      )


def config(tensors: Tensors) -> ConfigDict:
  """Returns the config of a workdir that holds a network as a teacher.

  A file does not state how wide attention heads are; those of the published
  sizes are taken.

  Raises:
    Misfit: the network is not SiT's.
  """
  for name, axes in {_FILTER: 4, _TABLE: 2, _PLACES: 3}.items():
    if name not in tensors:
      raise Misfit(f"it has no {name}")
    if tensors[name].ndim != axes:
      raise Misfit(f"its {name} has {tensors[name].ndim} axes and not {axes}")
  channels, in_channels, patch, _ = tensors[_FILTER].shape
  side = math.isqrt(tensors[_PLACES].shape[1])
  blocks = {n.split(".")[1] for n in tensors if n.startswith("blocks.")}
  c = get_defaults("teacher", "dit")
  c.ema = (0.0,)  # of a width that the file does not state
  c.total_steps, c.batch_size = 1, 256
  c.objective.label_dropout = 0.1
  c.network.update(presets.DIT_LAYERS)
  c.network.update(
    form="sit",
    channels=channels,
    depth=len(blocks),
    patch=patch,
    channels_per_head=presets.DIT["xl"]["channels_per_head"]
    if channels == presets.DIT["xl"]["channels"]
    else 64,
  )
  with c.data.ignore_type():  # a number for each channel
    c.data.update(DATA)
  c.data.size = side * patch
  c.data.num_classes = len(tensors[_TABLE]) - 1
  if in_channels != c.data.channels:
    raise Misfit(f"it is for data of {in_channels} channels, not of 4")
  return c


def params_from_tensors(
  network: networks.DiTConfig, tensors: Tensors
) -> dict[str, Any]:
  """Returns a network's parameters from tensors by SiT's names.

  The weighting head, which SiT does not have, is zero.

  Raises:
    Misfit: the tensors are not those of a network of the config.
  """
  reversed_time = any(name.startswith(_PROJECTORS) for name in tensors)
  left = {n: x for n, x in tensors.items() if not n.startswith(_PROJECTORS)}
  places = dit.positions(network.side, network.channels)
  stored = state_dict.take(left, _PLACES, (1, *places.shape))
  if np.abs(stored[0] - places).max() > 1e-3:  # float16 rounds them
    raise Misfit(f"its {_PLACES} are not the sinusoids of DiT")
  shapes = networks.build(network).shapes
  found = state_dict.fitted(
    _in_our_order(left, network), shapes["denoiser"], _name
  )
  if reversed_time:
    _turn(found)
  return {
    "denoiser": traverse_util.unflatten_dict(found),
    "weighting": _zeros(shapes["weighting"]),
  }


def expected_of_noise(
  network: networks.DiTConfig, params: dict[str, Any]
) -> float:
  """Returns the RMS of the data that a network expects of noise alone.

  That is the mean of its data, whose RMS is a small part of theirs. Files of
  DiT (arXiv 2212.09748) have the names and shapes of SiT's, but tell their
  network another time and expect noise of it.
  """
  shape = (4, network.resolution, network.resolution, network.in_channels)
  noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  cond = networks.null_cond(network, len(noise))
  t = np.full(len(noise), math.pi / 2, np.float32)
  F = jax.jit(networks.build(network).F)(params, noise, t, cond)
  return float(np.sqrt(np.mean(np.square(F))))


def _zeros(shapes: Any) -> Any:
  """Returns a tree of zeros of these shapes."""
  flat = traverse_util.flatten_dict(shapes)
  zeros = {k: np.zeros(x.shape, np.float32) for k, x in flat.items()}
  return traverse_util.unflatten_dict(zeros)


def _name(path: tuple[str, ...]) -> str:
  """Returns SiT's name of the parameter at `path` of the denoiser."""
  if path == ("embedding", "emb_label"):
    return _TABLE
  block, *rest = path
  if block.startswith("block_"):
    layer = _IN_BLOCK["/".join(rest[:-1])]
    return f"blocks.{block.removeprefix('block_')}.{layer}.{path[-1]}"
  return f"{_NAMES['/'.join(path[:-1])]}.{path[-1]}"


def _in_our_order(tensors: Tensors, network: networks.DiTConfig) -> Tensors:
  """Returns the tensors with patches and the table as our layers have them.

  Channels of a patch come last there; the second half of the outputs, a
  variance that SiT learns and does not use, is left out.
  """
  changed = dict(tensors)
  changed[_FILTER] = tensors[_FILTER].transpose(0, 2, 3, 1)
  changed[_FILTER] = changed[_FILTER].reshape(network.channels, -1)
  changed[_TABLE] = tensors[_TABLE].T  # which is transposed with the weights
  pixels, channels = network.patch**2, network.in_channels
  for kind in ("weight", "bias"):
    name = f"final_layer.linear.{kind}"
    outputs = tensors.get(name)
    if outputs is not None and len(outputs) == 2 * pixels * channels:
      outputs = outputs.reshape(pixels, 2 * channels, *outputs.shape[1:])
      outputs = outputs[:, :channels]
      changed[name] = outputs.reshape(pixels * channels, *outputs.shape[2:])
  return changed


def _turn(params: dict[tuple[str, ...], np.ndarray]) -> None:
  """Makes a network of REPA's, of the time `1 - tau`, one of SiT's, of `tau`.

  The sinusoids of `1 - tau` are those of `tau`, turned by each frequency.
  """
  path = ("embedding", "emb_noise", "weight")
  cosines, sines = np.split(params[path], 2)
  angles = dit.THETA ** (-np.arange(len(cosines)) / len(cosines))[:, None]
  cos, sin = np.cos(angles), np.sin(angles)
  turned = [cos * cosines + sin * sines, sin * cosines - cos * sines]
  params[path] = np.concatenate(turned).astype(np.float32)
  for kind in ("weight", "bias"):
    params["out", kind] = -params["out", kind]
