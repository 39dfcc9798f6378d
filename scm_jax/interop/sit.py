"""Public SiT and LightningDiT networks, and configs of ours for them.

SiT (arXiv 2401.08740) is a transformer that gives a rectified flow's velocity,
on latents of ImageNet 256 or 512. Its files hold a state dict, by itself or as
`ema`. REPA (arXiv 2410.06940) trains the same network with the time and the
velocity turned around, beside `projectors` that sampling does not need; both
are turned here, in the weights that read the time and give the velocity.

LightningDiT (arXiv 2501.01423), FACM's teacher (arXiv 2507.03738) among its
networks, is told and gives what SiT is and does, has other layers, and learns
latents of 32 channels, each normalised. The weights that its norms have are put
into the modulation that follows them. FACM's students have the same layers and
give the average velocity up to the data, which makes them consistency models in
our coordinates.
"""

import functools
import json
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from scm_jax import errors, networks, sampler_kinds
from scm_jax.defaults import get_defaults
from scm_jax.errors import UserError
from scm_jax.interop import (
  sit_names,
  state_dict,
  torch_archive,
  unpickling,
)
from scm_jax.interop.sit_names import FILTER, PLACES, TABLE
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
_PROJECTORS = "projectors."
# The average that FACM draws from, among the two that its trainer keeps.
_OF_FACM = "ema_models.1.ema_model."
# How LightningDiT turns queries and keys, in tables; we compute it.
_COSINES, _SINES = "feat_rope.freqs_cos", "feat_rope.freqs_sin"
# Flags of the training scripts, with the values that are read.
_FLAGS = {"path_type": ("Linear", "linear"), "prediction": ("velocity", "v")}


def read(path: str | os.PathLike[str]) -> Tensors:
  """Reads a network's tensors, by SiT's names; nothing in it is executed.

  Raises:
    UserError: the file cannot be read, is damaged, or holds something else.
  """
  if str(path).endswith(".safetensors"):
    _check_not_an_export(pathlib.Path(path))
    return state_dict.read(path)
  with errors.reading(path), open(path, "rb") as file:
    content = torch_archive.load(file, state_dict.ADMITTED)
    return state_dict.named_tensors(_averaged(content))


def read_statistics(
  path: str | os.PathLike[str],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Reads the mean and deviation of each channel of LightningDiT's latents.

  Raises:
    UserError: the file cannot be read, is damaged, or holds something else.
  """
  tensors = state_dict.read(path)
  mean, std = (tensors.get(name, np.zeros(0)) for name in ("mean", "std"))
  fits = mean.size and mean.shape == std.shape
  # [1, C, 1, 1] in the published file.
  if not fits or mean.size != max(mean.shape, default=0):
    raise UserError(
      f"{path} holds no mean and std of latents, a number for each channel"
    )
  if not np.isfinite([mean, std]).all() or std.min() <= 0:
    raise UserError(f"{path} holds numbers that are no mean and std of latents")
  return tuple(mean.ravel().tolist()), tuple(std.ravel().tolist())


def _check_not_an_export(path: pathlib.Path) -> None:
  """Raises UserError for a network of an export of ours.

  It has SiT's names, but its tensors tell neither its form nor its layers.
  """
  beside = path.parent / "config.json"
  if not beside.exists():
    return
  with errors.reading(beside):
    content = json.loads(beside.read_text())
  if isinstance(content, dict) and content.get("_class_name") == "DiTTrigFlow":
    raise UserError(
      f"{path} is the network of an export; nothing has to be imported, for "
      f"the export's folder, {path.absolute().parent.parent}, is a workdir"
    )


def _averaged(content: Any) -> Any:
  """Returns the averaged weights in a training checkpoint, or else `content`.

  Raises:
    Refused: they are of a network that cannot be read.
  """
  if not isinstance(content, dict):
    return content
  if isinstance(averages := content.get("emas"), dict):  # FACM's own trainer
    begins = lambda name: str(name).startswith(_OF_FACM)
    return {n[len(_OF_FACM) :]: x for n, x in averages.items() if begins(n)}
  if isinstance(content.get("ema"), dict):
    _check_flags(_flags(content))
    return content["ema"]
  return content


def _flags(content: dict[str, Any]) -> dict[str, Any]:
  """Returns the flags that a training script saved beside the weights."""
  args, config = content.get("args"), content.get("config")
  if isinstance(args, unpickling.Record):  # SiT, REPA
    return args.state
  transport = config.get("transport") if isinstance(config, dict) else None
  return transport if isinstance(transport, dict) else {}  # LightningDiT


def _check_flags(flags: dict[str, Any]) -> None:
  """Raises Refused for the flags of another network."""
  for name, ours in _FLAGS.items():
    value = flags.get(name, ours[0])
    if value not in ours:
      raise unpickling.Refused(
        f"it was trained with {name}={value}, and only {ours[0]} can be read"
      )


def config(
  tensors: Tensors,
  statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
  student: bool = False,
) -> ConfigDict:
  """Returns the config of a workdir that holds a network.

  It is a teacher, or FACM's `student`.

  A file need not state how wide attention heads are; those of the published
  sizes are taken. The mean and deviation of each channel of latents are the
  `statistics`; without them the latents are SiT's.

  Raises:
    Misfit: the network is neither SiT's nor LightningDiT's, or its data are not
      those of the statistics.
  """
  for name, axes in {FILTER: 4, TABLE: 2, PLACES: 3}.items():
    if name not in tensors:
      raise Misfit(f"it has no {name}")
    if tensors[name].ndim != axes:
      raise Misfit(f"its {name} has {tensors[name].ndim} axes and not {axes}")
    if not tensors[name].size:
      raise Misfit(f"its {name} is empty")
  channels, in_channels, patch, _ = tensors[FILTER].shape
  side = math.isqrt(tensors[PLACES].shape[1])
  blocks = {n.split(".")[1] for n in tensors if n.startswith("blocks.")}
  for i in range(len(blocks)):
    if (name := f"blocks.{i}.attn.qkv.weight") not in tensors:
      raise Misfit(f"it has no {name}")
  c = get_defaults("scd" if student else "teacher", "dit")
  if student:  # as FACM draws one and two steps, from noise alone
    c.sample.sigma_max, c.sample.t_mid = sampler_kinds.RANGES["sigma_max"][1], 0
  c.ema = (0.0,)  # of a width that the file does not state
  c.total_steps, c.batch_size = 1, 256
  # FACM's students, unlike their teachers, always see a label.
  c.objective.label_dropout = 0.0 if student else 0.1
  c.network.update(
    _layers(tensors),
    form="sit",
    channels=channels,
    depth=len(blocks),
    patch=patch,
    channels_per_head=_head_width(tensors, channels),
  )
  with c.data.ignore_type():  # a number for each channel
    c.data.update(DATA)
    if statistics:
      c.data.mean, c.data.std = statistics
  c.data.channels = len(c.data.mean)
  c.data.size = side * patch
  c.data.num_classes = len(tensors[TABLE]) - 1
  if in_channels != c.data.channels:
    raise Misfit(
      f"it is for data of {in_channels} channels, not of {c.data.channels}"
      + (
        "" if statistics else "; give their mean and deviation by --statistics"
      )
    )
  return c


def _layers(tensors: Tensors) -> dict[str, Any]:
  """Returns the fields of the config that tell what the layers are."""
  return {
    "norm": "rms" if "blocks.0.norm1.weight" in tensors else "layer",
    "mlp": "swiglu" if "blocks.0.mlp.w12.weight" in tensors else "gelu",
    "rotary": _COSINES in tensors,
    "qk_norm": "blocks.0.attn.q_norm.weight" in tensors,
    "modulation": "adaln",
  }


def _head_width(tensors: Tensors, channels: int) -> int:
  """Returns the width of attention heads."""
  if _COSINES in tensors:
    return tensors[_COSINES].shape[-1]
  of_xl = presets.DIT["xl"]
  return of_xl["channels_per_head"] if channels == of_xl["channels"] else 64


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
  stored = state_dict.take(left, PLACES, (1, *places.shape))
  if np.abs(stored[0] - places).max() > 5e-3:  # bfloat16 rounds them
    raise Misfit(f"its {PLACES} are not the sinusoids of DiT")
  if network.rotary:
    _take_turns(left, network)
  if network.norm == "rms":
    _fold_norms(left, network)
  if network.mlp == "swiglu":
    _fill_up(left, network)
  shapes = networks.build(network).shapes
  found = state_dict.fitted(
    _in_our_order(left, network),
    shapes["denoiser"],
    functools.partial(sit_names.to_name, network=network),
  )
  if reversed_time:
    _turn(found)
  return {
    "denoiser": traverse_util.unflatten_dict(found),
    "weighting": _zeros(shapes["weighting"]),
  }


def expected_of_noise(
  network: networks.DiTConfig, params: dict[str, Any], labelled: bool = False
) -> float:
  """Returns the RMS of the data that a network expects of noise alone.

  It is asked without labels, or with some if it never saw noise without.

  A diffusion model's is the mean of its data, whose RMS is a small part of
  theirs; a consistency model's are data. Files of
  DiT (arXiv 2212.09748) have the names and shapes of SiT's, but tell their
  network another time and expect noise of it.
  """
  shape = (4, network.resolution, network.resolution, network.in_channels)
  noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  cond = networks.null_cond(network, len(noise))
  if labelled:
    cond["label"] = jnp.arange(len(noise)) % network.num_classes
  t = np.full(len(noise), math.pi / 2, np.float32)
  F = jax.jit(networks.build(network).F)(params, noise, t, cond)
  return float(np.sqrt(np.mean(np.square(F))))


def _zeros(shapes: Any) -> Any:
  """Returns a tree of zeros of these shapes."""
  flat = traverse_util.flatten_dict(shapes)
  zeros = {k: np.zeros(x.shape, np.float32) for k, x in flat.items()}
  return traverse_util.unflatten_dict(zeros)


def _take_turns(left: Tensors, network: networks.DiTConfig) -> None:
  """Removes the tables of rotations, which our layers compute.

  Raises:
    Misfit: they are of other rotations.
  """
  angles = dit.rotations(network.side, network.channels_per_head)
  angles = np.repeat(angles, 2, axis=-1)  # for both channels of a pair
  for name, wave in ((_COSINES, np.cos), (_SINES, np.sin)):
    stored = state_dict.take(left, name, angles.shape)
    if np.abs(stored - wave(angles)).max() > 1e-2:  # bfloat16 rounds them
      raise Misfit(f"its {name} are not those of its number of tokens")


def _fold_norms(tensors: Tensors, network: networks.DiTConfig) -> None:
  """Puts the weights of norms into the layers that modulate their results.

  A weight `w` and a scale `s` multiply by `w (1 + s)`, which is one and a scale
  of `w s + w - 1`.
  """
  width = network.channels
  # Of each norm its layer of modulation, and the place of its scale of so many
  # vectors there.
  places = {"final_layer.norm_final": ("final_layer", 1, 2)}
  for i in range(network.depth):
    block = f"blocks.{i}"
    places |= {f"{block}.norm1": (block, 1, 6), f"{block}.norm2": (block, 4, 6)}
  for norm, (part, place, vectors) in places.items():
    w = state_dict.take(tensors, f"{norm}.weight", (width,))
    name = f"{part}.adaLN_modulation.1"
    shape = vectors * width, width
    matrix = state_dict.take(tensors, f"{name}.weight", shape).copy()
    bias = state_dict.take(tensors, f"{name}.bias", shape[:1]).copy()
    rows = slice(place * width, (place + 1) * width)
    matrix[rows] *= w[:, None]
    bias[rows] = w * bias[rows] + w - 1
    tensors |= {f"{name}.weight": matrix, f"{name}.bias": bias}


def _fill_up(tensors: Tensors, network: networks.DiTConfig) -> None:
  """Adds hidden channels of zeros up to our width, which is a multiple of 32.

  They change nothing that the network gives, and training leaves them at zero.
  Of the published sizes L (2,730) and 1.6 B (4,778) have others.
  """
  width = network.channels
  for i in range(network.depth):
    first, last = f"blocks.{i}.mlp.w12", f"blocks.{i}.mlp.w3.weight"
    hidden = tensors[last].shape[-1] if last in tensors else network.hidden
    more = network.hidden - hidden
    if not 0 < more < 32:
      continue
    tensors[last] = np.pad(
      state_dict.take(tensors, last, (width, hidden)), ((0, 0), (0, more))
    )
    for name, shape in (("weight", (2, hidden, width)), ("bias", (2, hidden))):
      name, rest = f"{first}.{name}", shape[2:]
      both = state_dict.take(tensors, name, (2 * hidden, *rest)).reshape(shape)
      axes = (0, 0), (0, more), *[(0, 0)] * len(rest)
      tensors[name] = np.pad(both, axes).reshape(2 * network.hidden, *rest)


def _in_our_order(tensors: Tensors, network: networks.DiTConfig) -> Tensors:
  """Returns the tensors with patches and the table as our layers have them.

  Channels of a patch come last there; the second half of the outputs, a
  variance that SiT learns and does not use, is left out.
  """
  changed = dict(tensors)
  changed[FILTER] = tensors[FILTER].transpose(0, 2, 3, 1)
  changed[FILTER] = changed[FILTER].reshape(network.channels, -1)
  changed[TABLE] = tensors[TABLE].T  # which is transposed with the weights
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
