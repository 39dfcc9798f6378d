"""The part of an export that PyTorch and diffusers load.

    model_index.json  pipeline.py
    unet/       config.json  diffusion_pytorch_model.safetensors
                unet_trigflow.py
    scheduler/  scheduler_config.json       (of a consistency model)
    guide/      as unet/                    (of a teacher that has a guide)
    vae/        as diffusers has it         (of a model with an autoencoder)

Written without PyTorch: names, orders of axes and JSON. The U-Net's parameters
have the names of EDM2's own PyTorch network, in both of its forms.
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
from scm_jax.model import Model

WEIGHTS = "diffusion_pytorch_model.safetensors"
# The version whose loader and scheduler this was written for and is tested on.
DIFFUSERS_VERSION = "0.42.1"
_GUIDANCE = ("denoiser", "embedding", "emb_guidance", "kernel")
# Of a network's config: how it is trained or computed, not what it is.
_NOT_SHIPPED = (
  *("dtype", "attention", "remat", "dropout", "dropout_resolution"),
  *("weighting", "augment"),
)


def fits(model: Model) -> bool:
  """Whether there is a PyTorch module of the network."""
  return isinstance(model.network.config, networks.UNetConfig)


def check(model: Model) -> None:
  """Raises ConfigError for a network that has no PyTorch module."""
  if not fits(model):
    raise ConfigError(
      "--formats: diffusers and onnx know the U-Net alone; this network is "
      f"{type(model.network.config).__name__}, so give safetensors,stablehlo"
    )


def tensors(params: Mapping[str, Any], resolution: int) -> dict[str, Any]:
  """The U-Net's parameters by PyTorch's names, in PyTorch's order of axes.

  Args:
    params: of the network; the weighting head is left out.
    resolution: side of the network's input, which is part of a name.
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


def write_unet(folder: pathlib.Path, model: Model, params: Any) -> None:
  """Writes a U-Net's folder, its weights in the types of `params`."""
  folder.mkdir()
  with open(folder / WEIGHTS, "wb") as stream:
    unet = tensors(params, model.network.config.resolution)
    safetensors.write(stream, unet, {"format": "pt"})
  shutil.copy(pytorch.UNET, folder)
  config = dataclasses.asdict(model.network.config)
  shipped = {k: v for k, v in config.items() if k not in _NOT_SHIPPED}
  about = {"_class_name": "UNetTrigFlow"} | shipped
  about |= {
    "latents": isinstance(model.codec, codecs.LatentCodec),
    "data_mean": model.codec.mean,
    "data_std": model.codec.std,
    "image_range": getattr(model.codec, "image_range", (-1.0, 1.0)),
  }
  _write_json(folder / "config.json", about)


def write_pipeline(
  folder: pathlib.Path, model: Model, weights: Any, solver_steps: int
) -> None:
  """Writes the pipeline, and the scheduler or the guide that it needs."""
  shutil.copy(pytorch.PIPELINE, folder)
  index: dict[str, Any] = {
    "_class_name": ["pipeline", "SCMPipeline"],
    "_diffusers_version": DIFFUSERS_VERSION,
    "unet": ["unet_trigflow", "UNetTrigFlow"],
    "scheduler": [None, None],
    "guide": [None, None],
    "vae": [None, None],
    "consistency": model.consistency,
    "steps": 2 if model.consistency else solver_steps,
    "t_mid": model.t_mid,
    "sigma_max": model.sigma_max,
    "solver": model.solver,
    "guidance": model.scale(),
  }
  if autoencoder.of(model):  # its folder is every export's
    index["vae"] = ["diffusers", "AutoencoderKL"]
  if model.guide:
    index["guide"] = index["unet"]
    write_unet(folder / "guide", model.guide, weights["guide"])
  if model.consistency:
    index["scheduler"] = ["diffusers", "SCMScheduler"]
    (folder / "scheduler").mkdir()
    scheduler = {
      "_class_name": "SCMScheduler",
      "_diffusers_version": DIFFUSERS_VERSION,
      "num_train_timesteps": 1000,  # only a bound on the number of steps
      "prediction_type": "trigflow",
      "sigma_data": model.codec.sigma_d,
    }
    _write_json(folder / "scheduler/scheduler_config.json", scheduler)
  _write_json(folder / "model_index.json", index)


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n")
