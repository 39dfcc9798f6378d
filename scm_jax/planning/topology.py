"""Describes absent devices to a compiler."""

import importlib.metadata
import os
from typing import Any

from scm_jax.errors import UserError, is_installed
from scm_jax.planning.targets import Card, Target

# libtpu's name for the host of a TPU; the topology is given separately.
_ACCELERATOR = {"v5e": "v5litepod-8", "v5p": "v5p-8", "v6e": "v6e-8"}


def check_plugin(target: Target) -> None:
  """Raises UserError where the target's compiler is not installed."""
  platform = target.card.platform
  installed = {"tpu": is_installed("libtpu"), "gpu": gpu_plugin(), "cpu": True}
  if not installed[platform]:
    raise UserError(
      f"--target={target.name} needs a compiler that is not installed; pip "
      f"install 'scm-jax[plan-{platform}]' (the hardware itself is not needed)"
    )


def gpu_plugin() -> str | None:
  """Returns the CUDA version of the installed plugin, `cu12` or `cu13`."""
  found = (n for n in (13, 12) if is_installed(f"jax_plugins.xla_cuda{n}"))
  return next((f"cu{n}" for n in found), None)


def environment(target: Target) -> dict[str, str]:
  """Returns what a process that compiles needs before it imports JAX."""
  flags = os.environ.get("XLA_FLAGS", "")
  env = {
    "JAX_PLATFORMS": "cpu",
    # A cached program is not partitioned again and prints no warnings.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TF_CPP_MIN_LOG_LEVEL": "1",  # shows the partitioner's warnings
  }
  if target.card.platform == "cpu":
    flags += f" --xla_force_host_platform_device_count={target.devices}"
  if target.card.platform == "gpu":
    # Autotuning, which Triton's products need, is not possible without a card.
    flags += " --xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
  if target.card.platform == "tpu":
    env |= {
      "TPU_SKIP_MDS_QUERY": "1",
      "TPU_ACCELERATOR_TYPE": _ACCELERATOR[target.kind],
      "TPU_WORKER_HOSTNAMES": "localhost",
      "TPU_LOG_DIR": "disabled",
      "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several plans at once
    }
  return env | {"XLA_FLAGS": flags.strip()}


def devices(target: Target) -> list[Any]:
  """Returns the target's devices."""
  import jax
  from jax.experimental import topologies

  if target.card.platform == "cpu":
    return jax.devices("cpu")[: target.devices]
  sides = "x".join(map(str, target.topology))
  if target.card.platform == "tpu":
    name = f"{target.kind}:{sides}"
    return topologies.get_topology_desc(name, "tpu").devices
  return topologies.get_topology_desc(
    target.kind,
    "cuda",
    target_config=_target_config(target.card),
    topology=f"1x{sides}",  # slices, hosts, devices of each
  ).devices


def _target_config(card: Card) -> str:
  """Returns XLA's `GpuTargetConfigProto` of a GPU, in text form."""
  major, minor = card.capability  # CUDA's documentation has the sizes of each
  hopper = major >= 9
  per_core = 228 if hopper else 164  # KiB of shared memory
  per_block = per_core - 1  # the system keeps 1 KiB for each block
  dnn = importlib.metadata.version(f"nvidia-cudnn-{gpu_plugin()}").split(".")
  return f"""
    platform_name: "CUDA"
    dnn_version_info {{ major: {dnn[0]} minor: {dnn[1]} patch: {dnn[2]} }}
    gpu_device_info {{
      cuda_compute_capability {{ major: {major} minor: {minor} }}
      core_count: {card.cores}
      fpus_per_core: {128 if hopper else 64}
      clock_rate_ghz: {1.98 if hopper else 1.41}
      device_memory_size: {card.memory}
      memory_bandwidth: {int(card.bandwidth)}
      l2_cache_size: {(50 if hopper else 40) * 2**20}
      shared_memory_per_core: {per_core * 1024}
      shared_memory_per_block: {48 * 1024}
      shared_memory_per_block_optin: {per_block * 1024}
      registers_per_core_limit: 65536
      registers_per_block_limit: 65536
      threads_per_warp: 32
      threads_per_block_limit: 1024
      threads_per_core_limit: 2048
      thread_dim_limit_x: 1024
      thread_dim_limit_y: 1024
      thread_dim_limit_z: 64
      block_dim_limit_x: 2147483647
      block_dim_limit_y: 65535
      block_dim_limit_z: 65535
    }}
  """
