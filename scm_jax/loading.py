"""Loading a trained network from Python: `scm_jax.load(path).sample(labels)`.

An export needs jax, flax and numpy alone; a workdir needs `scm-jax[train]`.
"""

import os

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scm_jax import plugins
from scm_jax.errors import ConfigError, UserError
from scm_jax.interop import autoencoder as autoencoders
from scm_jax.interop import export_folder
from scm_jax.sampler import Sampler


def load(
  path: str | os.PathLike[str],
  ema: float = 0.0,
  dtype: str = "",
  autoencoder: str | None = None,
  *,
  average: float = 0.0,
  compiled: str | os.PathLike[str] = "",
) -> Sampler:
  """Loads a trained network, ready to draw on all devices.

  Args:
    path: an export's folder, the name of a network that comes with the package
      (`mnist-scd`), a workdir, or one of its checkpoints or snapshots
      (`DIR/checkpoints/STEP`, `DIR/snapshots/STEP`); the newest checkpoint of a
      workdir is read.
    ema: the width (or half-life in images) of the EMA weights; 0 is the first
      one in the run's config.
    dtype: float32, bfloat16 or float16, in which the weights are kept and the
      network computes; "" keeps float32 weights and computes as in training.
    autoencoder: the file of the autoencoder that decodes a network of latents;
      "" draws small previews instead; None is the model's own.
    average: the former name of `ema`.
    compiled: the folder that keeps all programs that this process compiles
      from now on, for processes to come, such as one beside an export. Its
      programs are run as they are, so that nobody else may write into it. ""
      leaves it to JAX.

  Raises:
    UserError: the folder is neither an export nor a workdir, is damaged, or
      does not hold the EMA weights; or there is no such dtype.
  """
  plugins.load()
  if compiled:
    _keep_programs(compiled)
  ema = ema or average
  if export_folder.description(path):
    sampler, _ = export_folder.read(path, ema=ema)
    if autoencoder is None:
      autoencoder = export_folder.autoencoder(path)
    sampler = autoencoders.attach_file(sampler, autoencoder)
  else:
    sampler = _load_workdir(path, ema, autoencoder)
  sampler = export_folder.in_dtype(sampler, dtype)
  # Every device holds the parameters, and computes its part of a batch.
  mesh = Mesh(np.asarray(jax.devices()), ("data",))
  return sampler.on(NamedSharding(mesh, PartitionSpec("data")))


def _keep_programs(folder: str | os.PathLike[str]) -> None:
  """Makes JAX keep compiled programs in a folder."""
  if os.path.exists(folder) and not os.path.isdir(folder):
    raise ConfigError(f"compiled={folder} is a file; name a folder")
  jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
  # All of them: those that compile in less than a second are several.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  compilation_cache.reset_cache()  # JAX chose a folder when it first compiled


def _load_workdir(
  path: str | os.PathLike[str], ema: float, autoencoder: str | None
) -> Sampler:
  try:
    from scm_jax.training import workdir
  except ModuleNotFoundError as error:
    raise UserError(
      f"{path} is not an export, and a workdir needs the package "
      f"{error.name!r}; pip install 'scm-jax[train]'"
    ) from error
  return workdir.load(path, ema, autoencoder)[0]
