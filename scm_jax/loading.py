"""Sampling from Python: `scm_jax.load(path).sample(labels)`.

An export needs jax, flax and numpy alone; a workdir needs `scm-jax[train]`.
"""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scm_jax.drawing import Sampler
from scm_jax.errors import UserError
from scm_jax.interop import autoencoder as autoencoders
from scm_jax.interop import export_folder
from scm_jax.model import Model

__all__ = ["Sampler", "load"]


def load(
  path: str | os.PathLike[str],
  average: float = 0.0,
  dtype: str = "",
  autoencoder: str | None = None,
) -> Sampler:
  """A trained network, ready to draw.

  Args:
    path: an export's folder, a workdir, or one of its checkpoints
      (`DIR/checkpoints/STEP`); of a workdir the newest is read.
    average: of a workdir, which average of the weights; 0 is its first.
    dtype: in which weights are kept and the network computes, float32 or
      bfloat16; "" is bfloat16 on GPUs and TPUs, and as in training on CPUs.
    autoencoder: of a model of latents, the file that decodes its samples; ""
      is none, a preview; None is the model's own.

  Raises:
    UserError: the folder is neither, or it is damaged.
  """
  if export_folder.description(path):
    model, origin = export_folder.read(path)
    if autoencoder is None:
      autoencoder = export_folder.autoencoder(path)
    model = autoencoders.attach_file(model, autoencoder)
    config = origin.config
  else:
    model, config = _load_workdir(path, average, autoencoder)
  solver_steps = config.get("sample", {}).get("solver_steps", 32)
  steps = 2 if model.consistency else solver_steps
  devices = jax.devices()
  if not dtype and devices[0].platform != "cpu":
    dtype = "bfloat16"
  model = export_folder.as_computed(model, dtype)
  mesh = Mesh(np.asarray(devices), ("data",))
  model = _placed(model, jnp.dtype(dtype or "float32"), mesh)
  return Sampler(model, steps, len(devices))


def _placed(model: Model, dtype: Any, mesh: Mesh) -> Model:
  """The model in a type, on every device, for batches cut over them."""
  return _cast(model, dtype).on(NamedSharding(mesh, PartitionSpec("data")))


def _cast(model: Model, dtype: Any) -> Model:
  return dataclasses.replace(
    model,
    params=export_folder.cast(model.params, dtype),
    guide=model.guide and _cast(model.guide, dtype),
  )


def _load_workdir(
  path: str | os.PathLike[str], average: float, autoencoder: str | None
) -> tuple[Model, dict[str, Any]]:
  try:
    from scm_jax.training import workdir
  except ModuleNotFoundError as error:
    raise UserError(
      f"{path} is not an export, and a workdir needs the package "
      f"{error.name!r}; pip install 'scm-jax[train]'"
    ) from error
  model, about = workdir.load(path, average, autoencoder)
  return model, about["config"].to_dict()
