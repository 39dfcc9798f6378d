"""The files of an export that PyTorch and diffusers load.

    model_index.json  pipeline.py
    unet/       config.json  diffusion_pytorch_model.safetensors
                unet_trigflow.py, or dit_trigflow.py for a transformer
    scheduler/  scheduler_config.json       (for a consistency model)
    guide/      as unet/                    (for a guidance network)
    vae/        in diffusers' layout        (for a network of latents)

They are written without PyTorch: names, orders of axes and JSON. The U-Net's
parameters have the names of EDM2's own PyTorch network, and a transformer's
those of SiT's and LightningDiT's, in all forms.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from scm_jax import codec as codecs
from scm_jax import networks
from scm_jax.interop import autoencoder, edm2_names, safetensors, sit_names
from scm_jax.interop.export_folder import write_json
from scm_jax.networks import dit
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


class Module(NamedTuple):
  """The PyTorch code of a family of networks.

  Attributes:
    file: its file in the folder `pytorch`, without `.py`.
    name: its class there.
    tensors: `tensors(params, config)`, a denoiser's parameters by the class's
      names, axes in PyTorch's order.
  """

  file: str
  name: str
  tensors: Callable[[Mapping[str, Any], Any], dict[str, Any]]


def unet_tensors(
  params: Mapping[str, Any], config: networks.UNetConfig
) -> dict[str, Any]:
  """Returns a U-Net's parameters by PyTorch's names, axes in its order."""
  found, side = {}, config.sides[0]
  for key, value in traverse_util.flatten_dict(params).items():
    path = ("denoiser", *key)
    name = edm2_names.to_name(path, side).removeprefix("unet.")
    array = edm2_names.to_theirs(np.asarray(value), path)
    found[name] = np.ascontiguousarray(array)
  return found


def dit_tensors(
  params: Mapping[str, Any], config: networks.DiTConfig
) -> dict[str, Any]:
  """Returns a transformer's parameters likewise, and its tokens' sinusoids."""
  places = dit.positions(config.side, config.channels)
  found = {sit_names.PLACES: np.asarray(places)[None]}
  for path, value in traverse_util.flatten_dict(params).items():
    array = sit_names.to_theirs(np.asarray(value), path, config)
    found[sit_names.to_name(path, config)] = np.ascontiguousarray(array)
  return found


# By the config's own class: one that inherits from it is of another network.
MODULES: dict[type[networks.NetworkConfig], Module] = {
  networks.UNetConfig: Module("unet_trigflow", "UNetTrigFlow", unet_tensors),
  networks.DiTConfig: Module("dit_trigflow", "DiTTrigFlow", dit_tensors),
}


def fits(sampler: Sampler) -> bool:
  """Returns whether PyTorch code ships for its networks and their kind."""
  both = sampler.network, sampler.guidance_network or sampler.network
  known = all(type(network.config) in MODULES for network in both)
  return known and sampler.kind in KINDS


def write_network(folder: pathlib.Path, sampler: Sampler) -> None:
  """Writes a network's folder, its weights in the types that they have."""
  config, codec = sampler.network.config, sampler.codec
  module = MODULES[type(config)]
  folder.mkdir()
  with open(folder / WEIGHTS, "wb") as stream:
    # The weighting head is left out.
    tensors = module.tensors(sampler.params["denoiser"], config)
    safetensors.write(stream, tensors, {"format": "pt"})
  shutil.copy(_SOURCES / f"{module.file}.py", folder)
  fields = dataclasses.asdict(config).items()
  content = {"_class_name": module.name}
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
  second = sampler.guidance_network
  decoded = autoencoder.attached(sampler)  # every export writes its folder
  index: dict[str, Any] = {
    "_class_name": ["pipeline", "SCMPipeline"],
    "_diffusers_version": DIFFUSERS_VERSION,
    "unet": _component(sampler.network),
    "scheduler": ["diffusers", "SCMScheduler"] if scheduled else none,
    "guide": _component(second) if second else none,
    "vae": ["diffusers", "AutoencoderKL"] if decoded else none,
    "consistency": few,
    "steps": sampler.steps,
    "t_mid": sampler.t_mid,
    "sigma_max": sampler.sigma_max,
    "solver": sampler.solver,
    "guidance": sampler.guidance_scale(),
    "guidance_interval": sampler.guidance_interval,
    "guidance_channels": sampler.guidance_channels,
    "unconditional": sampler.unconditional,
  }
  if sampler.kind == "map":
    index |= {"flow_map": True, "gamma": sampler.gamma}
  write_json(folder / "model_index.json", index)
  if second:
    guide = dataclasses.replace(
      sampler, network=second, params=sampler.guidance_params
    )
    write_network(folder / "guide", guide)
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


def _component(network: networks.Network) -> list[str]:
  """Returns the file and the class by which diffusers loads a network."""
  module = MODULES[type(network.config)]
  return [module.file, module.name]
