"""A public autoencoder's weights: read, and written in diffusers' layout.

The layout is a safetensors file of `AutoencoderKL` with names such as
`encoder.down_blocks.0.resnets.1.conv1.weight`, filters OIHW and `[out, in]`.
Older files call the attention's layers query, key, value and proj_attn. Latent
diffusion's own checkpoints (`.pt`, `.ckpt`), such as that of LightningDiT's
VA-VAE, have names such as `encoder.down.0.block.1.conv1.weight`, beside the
networks that only its training needs. The number of groups is stated by a
`config.json` beside the file; without one it is 32, or the greatest number
below that the widths allow. All other sizes follow from the tensors.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from scm_jax import errors
from scm_jax.codec import LatentCodec
from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import safetensors, state_dict, torch_archive
from scm_jax.interop.export_folder import write_json
from scm_jax.interop.state_dict import Misfit
from scm_jax.networks import autoencoder
from scm_jax.networks.autoencoder import Autoencoder, AutoencoderConfig
from scm_jax.sampler import Sampler

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
# The autoencoder of the paper (Section G.1) and of EDM2.
SOURCE = "https://huggingface.co/stabilityai/sd-vae-ft-mse"
CHECKPOINTS = (".pt", ".pth", ".ckpt")
_CLASS = "AutoencoderKL"
_OLD_NAMES = {
  "query": "to_q",
  "key": "to_k",
  "value": "to_v",
  "proj_attn": "to_out.0",
}
_OLD = re.compile(rf"(attentions\.\d+)\.({'|'.join(_OLD_NAMES)})\.")
# Parts of the names in latent diffusion's checkpoints, by diffusers' names. The
# levels of its decoder are numbered from the images on.
_PARTS = "encoder.", "decoder.", "quant_conv.", "post_quant_conv."
_LATENT_DIFFUSION = {
  r"\bdown\.(\d+)\.": r"down_blocks.\1.",
  r"\bblock\.(\d+)\.": r"resnets.\1.",
  r"\battn\.(\d+)\.": r"attentions.\1.",
  r"\bdownsample\.": "downsamplers.0.",
  r"\bupsample\.": "upsamplers.0.",
  r"\bmid\.block_1\.": "mid_block.resnets.0.",
  r"\bmid\.attn_1\.": "mid_block.attentions.0.",
  r"\bmid\.block_2\.": "mid_block.resnets.1.",
  r"(attentions\.\d+)\.norm\.": r"\1.group_norm.",
  r"(attentions\.\d+)\.([qkv])\.": r"\1.to_\2.",
  r"(attentions\.\d+)\.proj_out\.": r"\1.to_out.0.",
  r"\bnin_shortcut\.": "conv_shortcut.",
  r"\bnorm_out\.": "conv_norm_out.",
}


def load(path: str | os.PathLike[str]) -> tuple[Autoencoder, Any]:
  """Loads an autoencoder and its parameters, float32 NumPy arrays.

  The path is that of a safetensors file or its folder, or of a checkpoint of
  latent diffusion.

  Raises:
    UserError: the file does not exist, is damaged, or holds something else. Of
      a safetensors file the message says what to fetch.
  """
  file = pathlib.Path(path)
  file = file / WEIGHTS if file.is_dir() else file
  fetch = ""
  if file.suffix not in CHECKPOINTS:
    fetch = f"; fetch {SOURCE}/resolve/main/{WEIGHTS} and put it at {file}"
  if not file.exists():
    raise UserError(f"no autoencoder at {file}{fetch}")
  try:
    with errors.reading(file):
      tensors = _by_diffusers_names(_read(file))
      tensors = dict(_modern(*item) for item in tensors.items())
      network = autoencoder.build(_config(tensors, file.parent / CONFIG))
      params = state_dict.fitted(tensors, network.shapes, to_name)
      return network, traverse_util.unflatten_dict(params)
  except UserError as error:
    raise UserError(f"{error}{fetch}") from error


def attach(sampler: Sampler, network: Autoencoder, params: Any) -> Sampler:
  """Returns a sampler that decodes its latents with an autoencoder.

  Raises:
    ConfigError: the network draws images, or latents of other channels.
  """
  if not isinstance(sampler.codec, LatentCodec):
    raise ConfigError("this network draws images; it needs no autoencoder")
  ours = sampler.network.config.in_channels
  theirs = network.config.latent_channels
  if ours != theirs:
    raise ConfigError(
      f"this network's latents have {ours} channels, and the autoencoder's "
      f"have {theirs}"
    )
  codec = dataclasses.replace(sampler.codec, autoencoder=network)
  return dataclasses.replace(sampler, codec=codec, decoder=params)


def attach_file(sampler: Sampler, path: str | os.PathLike[str]) -> Sampler:
  """Returns a sampler that decodes with the autoencoder at `path`, on a device.

  The path is a file or a folder; "" returns the sampler as it is.

  Raises:
    UserError: the autoencoder cannot be loaded, or does not fit the sampler.
  """
  if path:
    network, params = load(path)
    sampler = attach(sampler, network, jax.device_put(params))
  return sampler


def attached(sampler: Sampler) -> Autoencoder | None:
  """Returns the autoencoder whose parameters are `sampler.decoder`, if any."""
  return getattr(sampler.codec, "autoencoder", None)


def write(
  folder: str | os.PathLike[str], network: Autoencoder, params: Any
) -> None:
  """Writes a folder that `load` and diffusers' `AutoencoderKL` read.

  The folder is made if it is not there; files of the same names are replaced.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / WEIGHTS, "wb") as stream:
    safetensors.write(stream, params_to_tensors(params), {"format": "pt"})
  write_json(folder / CONFIG, _describe(network.config))


def params_from_tensors(
  network: Autoencoder, tensors: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns our parameters from diffusers' tensors, NumPy's or traced ones."""
  paths = traverse_util.flatten_dict(network.shapes)
  return traverse_util.unflatten_dict(
    {path: state_dict.to_ours(tensors[to_name(path)]) for path in paths}
  )


def params_to_tensors(params: Any) -> dict[str, np.ndarray]:
  """Returns diffusers' tensors from our parameters."""
  return {
    to_name(path): np.ascontiguousarray(state_dict.to_theirs(np.asarray(array)))
    for path, array in traverse_util.flatten_dict(params).items()
  }


def to_name(path: tuple[str, ...]) -> str:
  """Returns diffusers' name of the parameter at `path`."""
  parts = [re.sub(r"_(\d+)$", r".\1", part) for part in path[:-1]]
  leaf = "bias" if path[-1] == "bias" else "weight"  # a kernel, or a scale
  return ".".join([*parts, leaf])


def _read(file: pathlib.Path) -> state_dict.Tensors:
  """Reads the tensors of a file; those of a checkpoint are its `state_dict`."""
  if file.suffix not in CHECKPOINTS:
    return safetensors.read(file)[0]
  with file.open("rb") as stream:
    content = torch_archive.load(stream, state_dict.ADMITTED)
  if isinstance(content, dict) and "state_dict" in content:
    content = content["state_dict"]
  return state_dict.named_tensors(content)


def _by_diffusers_names(tensors: state_dict.Tensors) -> state_dict.Tensors:
  """Returns tensors by diffusers' names, if they are latent diffusion's."""
  levels = {
    m[1] for m in (re.match(r"decoder\.up\.(\d+)\.", n) for n in tensors) if m
  }
  if not levels:
    return tensors
  found = {}
  for name, tensor in tensors.items():
    if not name.startswith(_PARTS):
      continue  # losses and averages of the training
    name = re.sub(
      r"\bup\.(\d+)\.",
      lambda m: f"up_blocks.{len(levels) - 1 - int(m[1])}.",
      name,
    )
    for pattern, ours in _LATENT_DIFFUSION.items():
      name = re.sub(pattern, ours, name)
    found[name] = tensor
  return found


def _modern(name: str, tensor: np.ndarray) -> tuple[str, np.ndarray]:
  """Returns a tensor by its name in today's diffusers."""
  name = _OLD.sub(lambda m: f"{m[1]}.{_OLD_NAMES[m[2]]}.", name)
  if ".attentions." in name and tensor.shape[2:] == (1, 1):
    tensor = tensor[..., 0, 0]  # a dense layer that was a 1x1 convolution
  return name, tensor


def _config(
  tensors: Mapping[str, np.ndarray], beside: pathlib.Path
) -> AutoencoderConfig:
  """Infers the sizes from the shapes; `config.json` may state the groups."""

  def shape(name: str) -> tuple[int, ...]:
    if name not in tensors:
      raise Misfit(f"it has no {name}")
    return tensors[name].shape

  def count(pattern: str) -> int:
    found = (re.match(pattern, name) for name in tensors)
    return len({match[1] for match in found if match})

  widths = tuple(
    shape(f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0]
    for i in range(count(r"encoder\.down_blocks\.(\d+)\."))
  )
  image_channels = shape("encoder.conv_in.weight")[1]
  latent_channels = shape("post_quant_conv.weight")[0]
  groups = _groups(beside) or math.gcd(32, *widths)
  if any(width % groups for width in widths):
    raise Misfit(f"{groups} groups do not divide its widths {widths}")
  blocks = count(r"encoder\.down_blocks\.0\.resnets\.(\d+)\.")
  lowest = f"encoder.down_blocks.{len(widths) - 1}.attentions.0.to_q.weight"
  return AutoencoderConfig(
    widths, blocks, latent_channels, image_channels, groups, lowest in tensors
  )


def _groups(config: pathlib.Path) -> int | None:
  """Returns the number of groups that an autoencoder's `config.json` states.

  None if there is no such file, or it is of something else.
  """
  if not config.exists():
    return None
  with errors.reading(config):
    content = json.loads(config.read_text())
  if isinstance(content, dict) and content.get("_class_name") == _CLASS:
    return content.get("norm_num_groups")
  return None


def _describe(config: AutoencoderConfig) -> dict[str, Any]:
  """Returns the content of diffusers' `config.json`."""
  higher, at = len(config.channels) - 1, "Attn" if config.attends else ""
  return {
    "_class_name": _CLASS,
    "act_fn": "silu",
    "block_out_channels": config.channels,
    "down_block_types": ["DownEncoderBlock2D"] * higher
    + [f"{at}DownEncoderBlock2D"],
    "in_channels": config.image_channels,
    "latent_channels": config.latent_channels,
    "layers_per_block": config.blocks,
    "norm_num_groups": config.groups,
    "out_channels": config.image_channels,
    "up_block_types": [f"{at}UpDecoderBlock2D"] + ["UpDecoderBlock2D"] * higher,
  }
