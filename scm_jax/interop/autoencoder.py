"""The public autoencoder's weights, in diffusers' layout, in and out.

A safetensors file of `AutoencoderKL`: `encoder.down_blocks.0.resnets.1.conv1
.weight`, filters OIHW and `[out, in]`. Older files call the attention's layers
query, key, value and proj_attn. All sizes but the number of groups follow from
the tensors; that one comes from a `config.json` beside the file, and without
one is 32 or whatever less the widths allow.
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

from scm_jax.codec import LatentCodec
from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import safetensors
from scm_jax.model import Model
from scm_jax.networks import autoencoder
from scm_jax.networks.autoencoder import Autoencoder, AutoencoderConfig

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
# The paper's (Section G.1) and EDM2's.
SOURCE = "https://huggingface.co/stabilityai/sd-vae-ft-mse"
_CLASS = "AutoencoderKL"
_OLD_NAMES = {
  "query": "to_q",
  "key": "to_k",
  "value": "to_v",
  "proj_attn": "to_out.0",
}
_OLD = re.compile(rf"(attentions\.\d+)\.({'|'.join(_OLD_NAMES)})\.")


def load(path: str | os.PathLike[str]) -> tuple[Autoencoder, Any]:
  """The autoencoder of a file.

  Args:
    path: the safetensors file, or the folder that it is in.

  Returns:
    Its functions, and its parameters: numpy's arrays in float32.

  Raises:
    UserError: there is no such file, or it is something else; the message says
      what to fetch.
  """
  file = pathlib.Path(path)
  file = file / WEIGHTS if file.is_dir() else file
  if not file.exists():
    raise UserError(f"no autoencoder at {file}; {_fetch(file)}")
  try:
    tensors, _ = safetensors.read(file)
  except UserError as error:
    raise UserError(f"{error}: {_fetch(file)}") from error
  tensors = dict(_modern(*item) for item in tensors.items())
  try:
    network = autoencoder.build(_config(tensors, file.parent / CONFIG))
    params = _params(network, tensors)
  except _Misfit as error:
    raise UserError(
      f"{file} is not an autoencoder in diffusers' layout: {error}; "
      f"{_fetch(file)}"
    ) from error
  return network, params


def attach(model: Model, network: Autoencoder, params: Any) -> Model:
  """The model with an autoencoder, which decodes its samples.

  Raises:
    ConfigError: it has no latents, or others.
  """
  if not isinstance(model.codec, LatentCodec):
    raise ConfigError("this network draws images; it needs no autoencoder")
  ours = model.network.config.in_channels
  theirs = network.config.latent_channels
  if ours != theirs:
    raise ConfigError(
      f"this network's latents have {ours} channels, the autoencoder's {theirs}"
    )
  codec = dataclasses.replace(model.codec, autoencoder=network)
  return dataclasses.replace(model, codec=codec, decoder=params)


def attach_file(model: Model, path: str | os.PathLike[str]) -> Model:
  """`attach` of the autoencoder at `path`, on a device; "" is none.

  Raises:
    UserError: as `load` and `attach`.
  """
  if not path:
    return model
  network, params = load(path)
  return attach(model, network, jax.device_put(params))


def of(model: Model) -> Autoencoder | None:
  """What decodes a model's samples; its parameters are `model.decoder`."""
  return getattr(model.codec, "autoencoder", None)


class _Misfit(Exception):
  """Why tensors are not an autoencoder's."""


def _fetch(file: pathlib.Path) -> str:
  return f"fetch {SOURCE}/resolve/main/{WEIGHTS} and put it at {file}"


def _modern(name: str, tensor: np.ndarray) -> tuple[str, np.ndarray]:
  """A tensor by its name of today."""
  name = _OLD.sub(lambda m: f"{m[1]}.{_OLD_NAMES[m[2]]}.", name)
  if ".attentions." in name and tensor.shape[2:] == (1, 1):
    tensor = tensor[..., 0, 0]  # a dense layer, once a 1x1 convolution
  return name, tensor


def _config(
  tensors: Mapping[str, np.ndarray], beside: pathlib.Path
) -> AutoencoderConfig:
  """The sizes that tensors have."""

  def shape(name: str) -> tuple[int, ...]:
    if name not in tensors:
      raise _Misfit(f"it has no tensor {name}")
    return tensors[name].shape

  def count(pattern: str) -> int:
    found = (re.match(pattern, name) for name in tensors)
    return len({match[1] for match in found if match})

  levels = count(r"encoder\.down_blocks\.(\d+)\.")
  widths = tuple(
    shape(f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0]
    for i in range(levels)
  )
  image_channels = shape("encoder.conv_in.weight")[1]
  latent_channels = shape("post_quant_conv.weight")[0]
  groups = _groups(beside) or math.gcd(32, *widths)
  if any(width % groups for width in widths):
    raise _Misfit(f"{groups} groups do not divide its widths {widths}")
  blocks = count(r"encoder\.down_blocks\.0\.resnets\.(\d+)\.")
  return AutoencoderConfig(
    widths, blocks, latent_channels, image_channels, groups
  )


def _groups(config: pathlib.Path) -> int | None:
  """What a `config.json` says, if it is there and of an autoencoder."""
  try:
    content = json.loads(config.read_text())
  except (OSError, ValueError):
    return None
  if not isinstance(content, dict) or content.get("_class_name") != _CLASS:
    return None
  return content.get("norm_num_groups")


def _params(
  network: Autoencoder, tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Parameters from tensors by their names, which must fit to the last one."""
  wanted = traverse_util.flatten_dict(_shapes(network))
  for path, spec in wanted.items():
    name = to_name(path)
    if name not in tensors:
      raise _Misfit(f"it has no tensor {name}")
    alike = np.broadcast_to(False, spec.shape)
    if tensors[name].shape != _to_theirs(alike, path).shape:
      raise _Misfit(f"its tensor {name} has shape {tensors[name].shape}")
  if more := tensors.keys() - {to_name(path) for path in wanted}:
    raise _Misfit(f"it also has a tensor {min(more)}")
  params = params_from_tensors(network, tensors)
  # Copied, because they are the file's bytes until then.
  return jax.tree.map(lambda x: np.array(x, np.float32, order="C"), params)


def _shapes(network: Autoencoder) -> Any:
  return jax.eval_shape(network.init, jax.random.key(0))


def params_from_tensors(
  network: Autoencoder, tensors: Mapping[str, Any]
) -> dict[str, Any]:
  """Our parameters from diffusers' tensors; numpy's arrays, or traced ones."""
  paths = traverse_util.flatten_dict(_shapes(network))
  return traverse_util.unflatten_dict(
    {path: _to_ours(tensors[to_name(path)], path) for path in paths}
  )


def params_to_tensors(params: Any) -> dict[str, np.ndarray]:
  """The inverse of `params_from_tensors`."""
  return {
    to_name(path): np.ascontiguousarray(_to_theirs(np.asarray(array), path))
    for path, array in traverse_util.flatten_dict(params).items()
  }


def to_name(path: tuple[str, ...]) -> str:
  """Diffusers' name of the parameter at `path`."""
  parts = [re.sub(r"_(\d+)$", r".\1", part) for part in path[:-1]]
  leaf = "bias" if path[-1] == "bias" else "weight"  # a kernel, or a scale
  return ".".join([*parts, leaf])


def _to_ours(tensor: Any, path: tuple[str, ...]) -> Any:
  """A tensor with our order of axes."""
  if path[-1] != "kernel":
    return tensor
  return tensor.T if tensor.ndim == 2 else tensor.transpose(2, 3, 1, 0)


def _to_theirs(array: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
  if path[-1] != "kernel":
    return array
  return array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)


def write(
  folder: str | os.PathLike[str], network: Autoencoder, params: Any
) -> None:
  """Writes a folder that `load` and diffusers' `AutoencoderKL` read.

  Args:
    folder: is made; files in it are replaced.
    network: its sizes.
    params: its parameters.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / WEIGHTS, "wb") as stream:
    safetensors.write(stream, params_to_tensors(params), {"format": "pt"})
  text = json.dumps(_describe(network.config), indent=2) + "\n"
  (folder / CONFIG).write_text(text)


def _describe(config: AutoencoderConfig) -> dict[str, Any]:
  """The content of diffusers' `config.json`."""
  levels = len(config.channels)
  return {
    "_class_name": _CLASS,
    "act_fn": "silu",
    "block_out_channels": config.channels,
    "down_block_types": ["DownEncoderBlock2D"] * levels,
    "in_channels": config.image_channels,
    "latent_channels": config.latent_channels,
    "layers_per_block": config.blocks,
    "norm_num_groups": config.groups,
    "out_channels": config.image_channels,
    "up_block_types": ["UpDecoderBlock2D"] * levels,
  }
