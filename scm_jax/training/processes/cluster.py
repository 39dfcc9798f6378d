"""Which processes make up a run, as the machines around this one say.

The first of these that applies counts:

1. `SCM_COORDINATOR` (`host:port` of process 0), `SCM_NUM_PROCESSES` and
   `SCM_PROCESS_ID`, which launch scripts and manifests set; on GKE the last is
   the job's completion index;
2. the variables of a Slurm step with several tasks;
3. `TPU_WORKER_HOSTNAMES` and `TPU_WORKER_ID`, which GKE sets beside TPUs;
4. the metadata server of a TPU VM.
"""

import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import NamedTuple

from scm_jax.errors import ConfigError

PORT = 8476  # of the coordinator, where nobody names one
PLAIN = ("SCM_COORDINATOR", "SCM_NUM_PROCESSES", "SCM_PROCESS_ID")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/"


class Cluster(NamedTuple):
  """This process among those of a run.

  Attributes:
    coordinator: `host:port` of process 0.
    count: processes.
    index: this one's.
    device: the only one of the host's devices that is this process's; None for
      all that it sees.
  """

  coordinator: str
  count: int
  index: int
  device: int | None = None


def detect(
  environment: Mapping[str, str] = os.environ,
  metadata: Callable[[str], str] | None = None,
) -> Cluster | None:
  """The cluster, or None where this process is alone.

  Args:
    environment: variables.
    metadata: an attribute of a TPU VM by name, "" if there is none; None asks
      the metadata server where there are TPUs.

  Raises:
    ConfigError: the variables contradict each other.
  """
  if any(name in environment for name in PLAIN):
    return _plain(environment)
  if all(name in environment for name in _SLURM):
    return _slurm(environment)
  if "TPU_WORKER_HOSTNAMES" in environment:
    hosts = environment["TPU_WORKER_HOSTNAMES"].split(",")
    index = int(environment.get("TPU_WORKER_ID", 0))
    return _tpu(hosts, index, environment)
  if metadata is None and _has_tpu(environment):
    metadata = _ask_metadata_server
  return _tpu_vm(metadata) if metadata else None


def _plain(environment: Mapping[str, str]) -> Cluster | None:
  missing = [name for name in PLAIN if name not in environment]
  if missing:
    given = next(name for name in PLAIN if name in environment)
    raise ConfigError(f"{given} is set, but {' and '.join(missing)} is not")
  coordinator, *numbers = (environment[name] for name in PLAIN)
  try:
    count, index = map(int, numbers)
  except ValueError:
    count, index = 0, 0
  host, _, port = coordinator.rpartition(":")
  if not 0 <= index < count or not host or not port.isdigit():
    raise ConfigError(
      "SCM_COORDINATOR must be host:port and 0 <= SCM_PROCESS_ID < "
      f"SCM_NUM_PROCESSES, not {coordinator}, {' and '.join(numbers)}"
    )
  return Cluster(coordinator, count, index) if count > 1 else None


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
  count = int(environment["SLURM_NTASKS"])
  if count == 1:
    return None
  host = first_host(environment["SLURM_STEP_NODELIST"])
  # A port that two jobs on a host do not share.
  port = 61_440 + int(environment["SLURM_JOB_ID"]) % 4096
  device = None
  nodes = int(environment.get("SLURM_STEP_NUM_NODES", count))
  visible = environment.get("CUDA_VISIBLE_DEVICES", "")
  if nodes < count and "," in visible:
    device = int(environment["SLURM_LOCALID"])
  index = int(environment["SLURM_PROCID"])
  return Cluster(f"{host}:{port}", count, index, device)


def first_host(nodes: str) -> str:
  """Of a Slurm node list: `gpu[003-007,9],cpu1` begins with `gpu003`."""
  name, bracket, rest = nodes.partition("[")
  if not bracket or "," in name:
    return nodes.split(",")[0]
  number = rest.replace("-", ",").replace("]", ",").split(",")[0]
  return name + number


def _tpu(
  hosts: list[str], index: int, slices: Mapping[str, str]
) -> Cluster | None:
  """Of one or several slices, each with the same number of hosts."""
  count = int(slices.get("MEGASCALE_NUM_SLICES") or 1)
  first = slices.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
  place = int(slices.get("MEGASCALE_SLICE_ID") or 0)
  if count * len(hosts) == 1:
    return None
  return Cluster(
    f"{first.split(':')[0]}:{PORT}",
    count * len(hosts),
    place * len(hosts) + index,
  )


def _tpu_vm(metadata: Callable[[str], str]) -> Cluster | None:
  endpoints = metadata("worker-network-endpoints")
  if not endpoints:
    return None
  # Each is a name, or `name:id:address`.
  hosts = [endpoint.split(":")[-1] for endpoint in endpoints.split(",")]
  lines = [line.partition(":") for line in metadata("tpu-env").splitlines()]
  slices = {key.strip(): value.strip(" '") for key, _, value in lines}
  return _tpu(hosts, int(metadata("agent-worker-number") or 0), slices)


def _has_tpu(environment: Mapping[str, str]) -> bool:
  """Whether this is a TPU VM (a machine that only compiles for one is not)."""
  if "TPU_SKIP_MDS_QUERY" in environment:
    return False
  devices = any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0")))
  return devices and importlib.util.find_spec("libtpu") is not None


def _ask_metadata_server(name: str) -> str:
  request = urllib.request.Request(
    f"{_METADATA}attributes/{name}", headers={"Metadata-Flavor": "Google"}
  )
  try:
    with urllib.request.urlopen(request, timeout=10) as answer:
      return answer.read().decode()
  except (urllib.error.URLError, OSError):
    return ""
