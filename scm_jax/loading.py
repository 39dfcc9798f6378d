"""Sampling from Python: `scm_jax.load(path).sample(labels)`.

An export needs jax, flax and numpy alone; a workdir needs `scm-jax[train]`.
"""

import os

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scm_jax.errors import UserError
from scm_jax.interop import autoencoder as autoencoders
from scm_jax.interop import export_folder
from scm_jax.model import Model
from scm_jax.sampler import Sampler

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
    dtype: in which weights are kept and the network computes, float32,
      bfloat16 or float16; "" is float32 weights, computed as in training, with
      which `scm-jax sample` and `scm-jax evaluate` draw.
    autoencoder: of a model of latents, the file that decodes its samples; ""
      is none, a preview; None is the model's own.

  Raises:
    UserError: the folder is neither, or it is damaged.
  """
  if export_folder.description(path):
    model, _ = export_folder.read(path)
    if autoencoder is None:
      autoencoder = export_folder.autoencoder(path)
    model = autoencoders.attach_file(model, autoencoder)
  else:
    model = _load_workdir(path, average, autoencoder)
  devices = jax.devices()
  mesh = Mesh(np.asarray(devices), ("data",))
  # Every device has the model, and its part of a batch.
  where = NamedSharding(mesh, PartitionSpec("data"))
  model = export_folder.in_dtype(model, dtype).on(where)
  return Sampler(model, len(devices))


def _load_workdir(
  path: str | os.PathLike[str], average: float, autoencoder: str | None
) -> Model:
  try:
    from scm_jax.training import workdir
  except ModuleNotFoundError as error:
    raise UserError(
      f"{path} is not an export, and a workdir needs the package "
      f"{error.name!r}; pip install 'scm-jax[train]'"
    ) from error
  return workdir.load(path, average, autoencoder)[0]
