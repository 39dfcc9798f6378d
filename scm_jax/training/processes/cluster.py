"""Detects the processes of a run and the place of this process among them.

The variables `PLAIN`, which launch scripts and Kubernetes manifests set, come
before JAX's own detection of Open MPI, Slurm and Cloud TPUs (on GKE and TPU
VMs). Its detection of other Kubernetes jobs is left out: it warns, or fails, in
every pod that may not read its job from the API server.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

# No public function of JAX detects without connecting, and connecting aborts
# the process where another one is missing (see `peers`).
from jax._src import clusters

from scm_jax.errors import ConfigError, UserError

PLAIN = ("SCM_COORDINATOR", "SCM_NUM_PROCESSES", "SCM_PROCESS_ID")
_DETECTORS = (
  clusters.OmpiCluster,
  clusters.SlurmCluster,
  clusters.GkeTpuCluster,
  clusters.GceTpuCluster,
)


class Cluster(NamedTuple):
  """The processes of a run, and the place of this process among them.

  Attributes:
    coordinator: the address of process 0, as `host:port`.
    count: the number of processes.
    index: the index of this process.
    device: the only GPU of this host that this process uses; None for all.
  """

  coordinator: str
  count: int
  index: int
  device: int | None = None


def detect(timeout: int = 300) -> Cluster | None:
  """Returns the cluster, or None where this process is a run by itself.

  It waits up to `timeout` seconds for the host name of process 0, which a TPU
  slice may make known late.

  Raises:
    ConfigError: the environment variables are incomplete or contradictory.
    UserError: the address of process 0 cannot be found out.
  """
  if given := [name for name in PLAIN if name in os.environ]:
    return _from_variables(given)
  found = next(filter(_applies, _DETECTORS), None)
  if found is None or (count := found.get_process_count()) == 1:
    return None
  port = os.environ.get("JAX_COORDINATOR_PORT")
  try:
    coordinator = found.get_coordinator_address(timeout, port)
  except RuntimeError as error:
    raise UserError(
      f"cannot find process 0 of this run: {error}; check the host names of "
      f"the job, or set {', '.join(PLAIN)}"
    ) from error
  device = found.get_local_process_id() if _shares_gpus(count) else None
  return Cluster(coordinator, count, found.get_process_id(), device)


def _from_variables(given: Sequence[str]) -> Cluster | None:
  """Reads the cluster from this project's own variables."""
  if missing := [name for name in PLAIN if name not in given]:
    raise ConfigError(
      f"{given[0]} is set, but {' and '.join(missing)} is not; set all three, "
      "or none of them"
    )
  coordinator, *numbers = (os.environ[name] for name in PLAIN)
  try:
    count, index = map(int, numbers)
  except ValueError:
    count, index = 0, 0
  host, _, port = coordinator.rpartition(":")
  there = host and port.isdigit() and 0 < int(port) < 65536
  if not 0 <= index < count or not there:
    raise ConfigError(
      "SCM_COORDINATOR must be host:port and 0 <= SCM_PROCESS_ID < "
      f"SCM_NUM_PROCESSES, not {coordinator}, {' and '.join(numbers)}"
    )
  return Cluster(coordinator, count, index) if count > 1 else None


def _applies(detector: type[clusters.ClusterEnv]) -> bool:
  """Returns whether this process runs in the detector's environment."""
  try:
    return detector.is_env_present()
  except OSError:  # a machine with TPUs from which no metadata server is seen
    return False


def _shares_gpus(count: int) -> bool:
  """Returns whether several processes of the run see all GPUs of this host.

  JAX gives every process of Slurm and Open MPI one GPU, also where it is the
  only one of its host, or where the launcher shows it a single GPU.
  """
  nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", count))
  here = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", -(-count // nodes)))
  return here > 1 and "," in os.environ.get("CUDA_VISIBLE_DEVICES", "")
