"""A config and parameters of ours for a public EDM2 network."""

import re
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from scm_jax import networks
from scm_jax.defaults import get_defaults
from scm_jax.errors import UserError
from scm_jax.interop import edm2, edm2_names
from scm_jax.interop.state_dict import Tensors

BATCH = 2048  # of every published EDM2 network (arXiv 2312.02696, Table 6)
# `edm2-img512-s-2147483-0.130.pkl`: thousands of images, sigma_rel.
_FILE = re.compile(r".*-(\d{5,})-(\d\.\d+)\.pkl")


def training(file_name: str) -> tuple[int, float]:
  """Returns the training steps and `sigma_rel` that a file's name states.

  EDM2 states the number of images in thousands, rounded down; the number is a
  multiple of the batch size.

  Returns:
    The steps, and the width of the EMA; both are 0 if the name states nothing.
  """
  match = _FILE.fullmatch(file_name)
  if not match:
    return 0, 0.0
  return -(-int(match[1]) * 1000 // BATCH), float(match[2])


def architecture(tensors: Tensors, resolution: int) -> dict[str, Any]:
  """Infers fields of `config.network` from the names and shapes of tensors.

  Args:
    tensors: arrays by PyTorch's names.
    resolution: the side of the network's data.

  Raises:
    KeyError: a tensor is missing that the fields are inferred from.
  """

  def width(name: str) -> int:
    return len(tensors[f"unet.{name}"])

  def has(side: int, rest: str) -> bool:
    return f"unet.enc.{side}x{side}_{rest}" in tensors

  sides, blocks = [resolution], 0
  while has(sides[-1] // 2, "block0.emb_gain"):
    sides.append(sides[-1] // 2)
  while has(resolution, f"block{blocks}.emb_gain"):
    blocks += 1
  channels = width("emb_fourier.freqs")
  widths = [width(f"enc.{s}x{s}_block0.conv_res1.weight") for s in sides]
  return {
    "form": "edm2",
    "channels": channels,
    "channel_mult": tuple(width // channels for width in widths),
    "channel_mult_emb": width("emb_noise.weight") // channels,
    "num_blocks": blocks,
    "attn_resolutions": tuple(
      side for side in sides if has(side, "block0.attn_qkv.weight")
    ),
  }


def config(pickle: edm2.Pickle, step: int, sigma_rel: float) -> ConfigDict:
  """Returns the config of a workdir that holds a network as a teacher.

  Args:
    pickle: the network.
    step: the number of updates that trained the network.
    sigma_rel: the width of the network's EMA; 0 if it is not known.

  Raises:
    UserError: the network is not a U-Net of EDM2's.
  """
  c = get_defaults()
  c.run, c.sigma_d, c.ema = "teacher", pickle.sigma_d, (sigma_rel,)
  c.batch_size, c.total_steps = BATCH, max(step, 1)
  try:
    c.network.update(architecture(pickle.tensors, pickle.resolution))
  except KeyError as error:
    raise UserError(f"it has no tensor {error}") from error
  c.network.channels_per_head = pickle.channels_per_head
  c.data.update(
    size=pickle.resolution,
    channels=pickle.channels,
    num_classes=pickle.classes,
  )
  encoder = pickle.encoder or edm2.Encoder(False, 0.0, pickle.sigma_d)
  c.data.kind = "latents" if encoder.latents else "images"
  with c.data.ignore_type():  # one number, or one for each channel
    c.data.mean, c.data.std = encoder.mean, encoder.std
  if encoder.latents:
    c.data.image_range = (0.0, 1.0)  # as Stable Diffusion's VAE was trained
  return c


def params(
  pickle: edm2.Pickle, network_config: networks.NetworkConfig
) -> dict[str, Any]:
  """Returns a network's parameters, with their magnitudes as stored.

  Args:
    pickle: the network.
    network_config: the config of ours that the parameters must fit.

  Raises:
    UserError: the file lacks tensors, has others, or has other shapes.
  """
  try:
    converted = edm2_names.params_from_torch(pickle.tensors)
  except KeyError as error:
    raise UserError(f"it has {error}, which no EDM2 network has") from error
  init = networks.build(network_config).init
  wanted = _shapes(jax.eval_shape(init, jax.random.key(0)))
  found = _shapes(converted)
  for name in sorted(wanted.keys() | found.keys()):
    if wanted.get(name) != found.get(name):
      raise UserError(
        f"{name} is {found.get(name, 'missing')} in the file and "
        f"{wanted.get(name, 'missing')} in EDM2's network"
      )
  return converted


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
  leaves = traverse_util.flatten_dict(params, sep="/")
  return {name: np.shape(leaf) for name, leaf in leaves.items()}
