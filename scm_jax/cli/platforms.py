"""Chooses the platform that JAX starts, and says which one it is.

libtpu is installed on machines without TPUs to compile for them (`scm-jax
plan`). JAX then starts it to see whether there is a TPU, and it prints several
lines of warnings on standard error, which no option turns off.

Devices are looked for in the file system below `root`.
"""

import logging
import os
import pathlib
from collections.abc import MutableMapping

from scm_jax import schema
from scm_jax.errors import is_installed

# What users or Google's machines set where there are TPUs.
_TPU_VARIABLES = (
  "JAX_FORCE_TPU_INIT",
  "TPU_ACCELERATOR_TYPE",
  "TPU_NAME",
  "TPU_WORKER_HOSTNAMES",
)
_TPU_DEVICES = ("accel*", "accel/*", "vfio/[0-9]*")
# Those of NVIDIA (in WSL "dxg"), and AMD's.
_NVIDIA_DEVICES = ("nvidia[0-9]*", "nvidiactl", "dxg")
_GPU_DEVICES = (*_NVIDIA_DEVICES, "kfd")
_CUDA_PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
# PCI classes of Google's other devices, its disks and network cards.
_NO_TPU_CLASSES = ("0x01", "0x02")
_GOOGLE = "0x1ae0"
# `JAX_PLATFORMS` for the values of `SCM_DEVICE`, which launch/setup.sh takes.
_CHOICES = {
  "cpu": "cpu",
  "cuda": "cuda,cpu",
  "cuda12": "cuda,cpu",
  "cuda13": "cuda,cpu",
  "tpu": "tpu,cpu",
}


def choose(
  environment: MutableMapping[str, str], root: str | os.PathLike = "/"
) -> None:
  """Sets `JAX_PLATFORMS` if `SCM_DEVICE` is set, or no TPU can be present.

  Must run before `jax` is imported. It changes nothing where the user has set
  `JAX_PLATFORMS`. Without `SCM_DEVICE` it changes nothing where libtpu is not
  installed, where there may be a TPU, or where there is a GPU for which JAX has
  no CUDA plugin. `environment` is changed in place.

  Raises:
    ConfigError: `SCM_DEVICE` has no such value.
  """
  if "JAX_PLATFORMS" in environment:
    return
  if device := environment.get("SCM_DEVICE"):
    environment["JAX_PLATFORMS"] = schema.pick(_CHOICES, device, "SCM_DEVICE")
    return
  if not is_installed("libtpu"):
    return
  if any(name in environment for name in _TPU_VARIABLES) or _has_tpu(root):
    return
  if not _has_device(root, _GPU_DEVICES):
    environment["JAX_PLATFORMS"] = "cpu"
  elif has_nvidia_gpu(root):
    environment["JAX_PLATFORMS"] = "cuda,cpu"


def announce(root: str | os.PathLike = "/") -> None:
  """Logs what JAX runs on; warns where an accelerator is here and not used.

  It starts JAX's devices, which must not happen before the processes of a run
  have found each other.
  """
  import jax

  kind, count = jax.devices()[0].device_kind, jax.device_count()
  name = "CPU" if kind == "cpu" else kind
  logging.info("running on %d x %s, with jax %s", count, name, jax.__version__)
  asked = os.environ.get("JAX_PLATFORMS", "").startswith("cpu")
  if jax.default_backend() == "cpu" and not asked:
    _warn_of_unused(root)


def _warn_of_unused(root: str | os.PathLike) -> None:
  if _has_device(root, _NVIDIA_DEVICES):
    name, extra, plugins = "an NVIDIA GPU", "cuda12", _CUDA_PLUGINS
  elif _has_tpu(root):
    name, extra, plugins = "a TPU", "tpu", ("libtpu",)
  else:
    return
  if any(map(is_installed, plugins)):
    remedy = "JAX says above why it could not start it"
  else:
    remedy = f"run launch/setup.sh, or pip install 'scm-jax[{extra}]'"
  logging.warning("%s is here, but JAX runs on the CPU; %s", name, remedy)


def has_nvidia_gpu(root: str | os.PathLike = "/") -> bool:
  """Returns whether there is an NVIDIA GPU and JAX's plugin for it."""
  plugin = any(map(is_installed, _CUDA_PLUGINS))
  return plugin and _has_device(root, _NVIDIA_DEVICES)


def _has_tpu(root: str | os.PathLike) -> bool:
  if _has_device(root, _TPU_DEVICES):
    return True
  devices = pathlib.Path(root, "sys/bus/pci/devices").glob("*")
  return any(map(_is_tpu, devices))


def _is_tpu(device: pathlib.Path) -> bool:
  try:
    vendor, kind = (
      (device / name).read_text().strip() for name in ("vendor", "class")
    )
  except OSError:
    return False
  return vendor == _GOOGLE and not kind.startswith(_NO_TPU_CLASSES)


def _has_device(root: str | os.PathLike, patterns: tuple[str, ...]) -> bool:
  folder = pathlib.Path(root, "dev")
  return any(any(folder.glob(pattern)) for pattern in patterns)
