"""From a public EDM2 network to a config and parameters of ours."""

import re
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from scm_jax import networks
from scm_jax.defaults import get_defaults
from scm_jax.errors import UserError
from scm_jax.interop import edm2, names

BATCH = 2048  # of every published EDM2 network (arXiv 2312.02696, Table 6)
# `edm2-img512-s-2147483-0.130.pkl`: thousands of images, sigma_rel.
_FILE = re.compile(r".*-(\d{5,})-(\d\.\d+)\.pkl")


def training(file_name: str) -> tuple[int, float]:
  """Steps and `sigma_rel` that a file's name tells; 0 where it does not.

  EDM2 counts thousands of images, rounded down, of a number that its batch
  divides.
  """
  match = _FILE.fullmatch(file_name)
  if not match:
    return 0, 0.0
  return -(-int(match[1]) * 1000 // BATCH), float(match[2])


def architecture(tensors: edm2.Tensors, resolution: int) -> dict[str, Any]:
  """Fields of `config.network` that tensors' names and shapes tell.

  Raises:
    KeyError: a tensor without which there is no telling.
  """
  width = lambda name: len(tensors[f"unet.{name}"])
  block = lambda side, i=0: f"enc.{side}x{side}_block{i}"
  sides, blocks = [resolution], 0
  while f"unet.{block(sides[-1] // 2)}.emb_gain" in tensors:
    sides.append(sides[-1] // 2)
  while f"unet.{block(resolution, blocks)}.emb_gain" in tensors:
    blocks += 1
  channels = width("emb_fourier.freqs")
  return {
    "form": "edm2",
    "channels": channels,
    "channel_mult": tuple(
      width(f"{block(side)}.conv_res1.weight") // channels for side in sides
    ),
    "channel_mult_emb": width("emb_noise.weight") // channels,
    "num_blocks": blocks,
    "attn_resolutions": tuple(
      side for side in sides if f"unet.{block(side)}.attn_qkv.weight" in tensors
    ),
  }


def config(pickle: edm2.Pickle, step: int, sigma_rel: float) -> ConfigDict:
  """The config of a workdir that holds this network as a teacher.

  Args:
    pickle: the network.
    step: updates that it has seen.
    sigma_rel: width of its average; 0 if not known.

  Raises:
    UserError: the network is no U-Net of EDM2's.
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
  with c.data.ignore_type():  # numbers for each channel, or one for all
    c.data.mean, c.data.std = encoder.mean, encoder.std
  if encoder.latents:
    c.data.image_range = (0.0, 1.0)  # of the images that Stability's VAE saw
  return c


def params(
  pickle: edm2.Pickle, network_config: networks.NetworkConfig
) -> dict[str, Any]:
  """The parameters of `network_config`, with their magnitudes as stored.

  Raises:
    UserError: the file lacks some, has others, or some of other shapes.
  """
  try:
    converted = names.params_from_torch(pickle.tensors)
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
