"""The files of an export that PyTorch and diffusers load.

    model_index.json  pipeline.py
    unet/       config.json  diffusion_pytorch_model.safetensors
                unet_trigflow.py
    scheduler/  scheduler_config.json       (for a consistency model)
    guide/      as unet/                    (for a guidance network)
    vae/        in diffusers' layout        (for a network of latents)

They are written without PyTorch: names, orders of axes and JSON. The U-Net's
parameters have the names of EDM2's own PyTorch network, in both of its forms.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from scm_jax import codec as codecs
from scm_jax import networks
from scm_jax.errors import ConfigError
from scm_jax.interop import (
  autoencoder,
  edm2_names,
  export_folder,
  pytorch,
  safetensors,
)
from scm_jax.sampler import Sampler

WEIGHTS = "diffusion_pytorch_model.safetensors"
# The version whose loader and scheduler the tests use.
DIFFUSERS_VERSION = "0.42.1"
_GUIDANCE = ("denoiser", "embedding", "emb_guidance", "kernel")
# Fields of a network's config that say how it is trained or computed.
_NOT_SHIPPED = {
  "dtype",
  "attention",
  "remat",
  "dropout",
  "dropout_resolution",
  "weighting",
  "augment",
}


def fits(sampler: Sampler) -> bool:
  """Returns whether there is a PyTorch module of the network."""
  return isinstance(sampler.network.config, networks.UNetConfig)


def check(sampler: Sampler) -> None:
  """Raises ConfigError for a network that has no PyTorch module."""
  if not fits(sampler):
    raise ConfigError(
      "--formats: diffusers and onnx are there for the U-Net alone, and this "
      f"network is {type(sampler.network.config).__name__}; give "
      "safetensors,stablehlo"
    )


def tensors(params: Mapping[str, Any], resolution: int) -> dict[str, Any]:
  """Returns the U-Net's parameters by PyTorch's names, axes in its order.

  Args:
    params: the network's parameters; the weighting head is left out.
    resolution: the side of the network's input, which is part of a name.
  """
  found = {}
  for name, value in export_folder.flatten(params).items():
    path, array = tuple(name.split("/")), np.asarray(value)
    if path[0] != "denoiser":
      continue
    theirs = "unet.emb_guidance.weight"
    if path != _GUIDANCE:
      theirs = edm2_names.to_name(path, resolution)
    array = np.ascontiguousarray(edm2_names.to_theirs(array, path))
    found[theirs.removeprefix("unet.")] = array.reshape(array.shape)
  return found


def write_unet(folder: pathlib.Path, sampler: Sampler) -> None:
  """Writes a U-Net's folder, its weights in the types that they have."""
  config, codec = sampler.network.config, sampler.codec
  folder.mkdir()
  with open(folder / WEIGHTS, "wb") as stream:
    unet = tensors(sampler.params, config.resolution)
    safetensors.write(stream, unet, {"format": "pt"})
  shutil.copy(pytorch.UNET, folder)
  fields = dataclasses.asdict(config).items()
  content = {"_class_name": "UNetTrigFlow"}
  content |= {name: v for name, v in fields if name not in _NOT_SHIPPED}
  content |= {
    "latents": isinstance(codec, codecs.LatentCodec),
    "data_mean": codec.mean,
    "data_std": codec.std,
    "image_range": getattr(codec, "image_range", (-1.0, 1.0)),
  }
  _write_json(folder / "config.json", content)


def write_pipeline(folder: pathlib.Path, sampler: Sampler) -> None:
  """Writes the pipeline, and the scheduler or the guidance network it needs."""
  shutil.copy(pytorch.PIPELINE, folder)
  consistency = sampler.kind == "consistency"
  index: dict[str, Any] = {
    "_class_name": ["pipeline", "SCMPipeline"],
    "_diffusers_version": DIFFUSERS_VERSION,
    "unet": ["unet_trigflow", "UNetTrigFlow"],
    "scheduler": [None, None],
    "guide": [None, None],
    "vae": [None, None],
    "consistency": consistency,
    "steps": sampler.steps,
    "t_mid": sampler.t_mid,
    "sigma_max": sampler.sigma_max,
    "solver": sampler.solver,
    "guidance": sampler.guidance_scale(),
    "unconditional": sampler.unconditional,
  }
  if autoencoder.attached(sampler):  # every export writes its folder
    index["vae"] = ["diffusers", "AutoencoderKL"]
  if sampler.guidance_network:
    index["guide"] = index["unet"]
    second = dataclasses.replace(
      sampler, network=sampler.guidance_network, params=sampler.guidance_params
    )
    write_unet(folder / "guide", second)
  if consistency:
    index["scheduler"] = ["diffusers", "SCMScheduler"]
    (folder / "scheduler").mkdir()
    scheduler = {
      "_class_name": "SCMScheduler",
      "_diffusers_version": DIFFUSERS_VERSION,
      "num_train_timesteps": 1000,  # only a bound on the number of steps
      "prediction_type": "trigflow",
      "sigma_data": sampler.codec.sigma_d,
    }
    _write_json(folder / "scheduler/scheduler_config.json", scheduler)
  _write_json(folder / "model_index.json", index)


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n")
