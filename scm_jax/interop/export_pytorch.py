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
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from scm_jax import codec as codecs
from scm_jax import networks
from scm_jax.interop import autoencoder, edm2_names, safetensors
from scm_jax.interop.export_folder import write_json
from scm_jax.sampler import Sampler

# These files import neither this package nor JAX, and are copied as they are.
_SOURCES = pathlib.Path(__file__).parent / "pytorch"
WEIGHTS = "diffusion_pytorch_model.safetensors"
# The version whose loader and scheduler the tests use.
DIFFUSERS_VERSION = "0.42.1"
KINDS = ("consistency", "map", "diffusion")  # what `pipeline.py` can draw
# Fields of a network's config that say how it is trained or computed.
_NOT_SHIPPED = frozenset(
  "dtype attention remat dropout dropout_resolution weighting augment".split()
)


def fits(sampler: Sampler) -> bool:
  """Returns whether PyTorch code ships for its networks and their kind."""
  both = sampler.network, sampler.guidance_network or sampler.network
  are_unets = all(isinstance(n.config, networks.UNetConfig) for n in both)
  return are_unets and sampler.kind in KINDS


def tensors(params: Mapping[str, Any], side: int) -> dict[str, Any]:
  """Returns the U-Net's parameters by PyTorch's names, axes in its order.

  The weighting head is left out. The `side` of the features at the first level
  is part of a name.
  """
  found = {}
  for key, value in traverse_util.flatten_dict(params["denoiser"]).items():
    path = ("denoiser", *key)
    name = edm2_names.to_name(path, side).removeprefix("unet.")
    array = edm2_names.to_theirs(np.asarray(value), path)
    found[name] = np.ascontiguousarray(array)
  return found


def write_unet(folder: pathlib.Path, sampler: Sampler) -> None:
  """Writes a U-Net's folder, its weights in the types that they have."""
  config, codec = sampler.network.config, sampler.codec
  assert isinstance(config, networks.UNetConfig)  # it `fits`
  folder.mkdir()
  with open(folder / WEIGHTS, "wb") as stream:
    unet = tensors(sampler.params, config.sides[0])
    safetensors.write(stream, unet, {"format": "pt"})
  shutil.copy(_SOURCES / "unet_trigflow.py", folder)
  fields = dataclasses.asdict(config).items()
  content = {"_class_name": "UNetTrigFlow"}
  content |= {name: v for name, v in fields if name not in _NOT_SHIPPED}
  content |= {
    "latents": isinstance(codec, codecs.LatentCodec),
    "data_mean": codec.mean,
    "data_std": codec.std,
    "image_range": getattr(codec, "image_range", (-1.0, 1.0)),
  }
  write_json(folder / "config.json", content)


def write_pipeline(folder: pathlib.Path, sampler: Sampler) -> None:
  """Writes the pipeline, and the scheduler or the guidance network it needs."""
  shutil.copy(_SOURCES / "pipeline.py", folder)
  none, few = [None, None], sampler.rules.few_steps
  scheduled = sampler.kind == "consistency"
  unet = ["unet_trigflow", "UNetTrigFlow"]
  decoded = autoencoder.attached(sampler)  # every export writes its folder
  index: dict[str, Any] = {
    "_class_name": ["pipeline", "SCMPipeline"],
    "_diffusers_version": DIFFUSERS_VERSION,
    "unet": unet,
    "scheduler": ["diffusers", "SCMScheduler"] if scheduled else none,
    "guide": unet if sampler.guidance_network else none,
    "vae": ["diffusers", "AutoencoderKL"] if decoded else none,
    "consistency": few,
    "steps": sampler.steps,
    "t_mid": sampler.t_mid,
    "sigma_max": sampler.sigma_max,
    "solver": sampler.solver,
    "guidance": sampler.guidance_scale(),
    "guidance_interval": sampler.guidance_interval,
    "unconditional": sampler.unconditional,
  }
  if sampler.kind == "map":
    index |= {"flow_map": True, "gamma": sampler.gamma}
  write_json(folder / "model_index.json", index)
  if sampler.guidance_network:
    second = dataclasses.replace(
      sampler, network=sampler.guidance_network, params=sampler.guidance_params
    )
    write_unet(folder / "guide", second)
  if scheduled:
    (folder / "scheduler").mkdir()
    scheduler = {
      "_class_name": "SCMScheduler",
      "_diffusers_version": DIFFUSERS_VERSION,
      "num_train_timesteps": 1000,  # only a bound on the number of steps
      "prediction_type": "trigflow",
      "sigma_data": sampler.codec.sigma_d,
    }
    write_json(folder / "scheduler/scheduler_config.json", scheduler)
