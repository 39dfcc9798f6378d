"""Searches the fastest way to run a config on a target.

The mesh, the number of microbatches and the rematerialization policy vary; the
global batch does not. All combinations are ranked by their predicted time and
compiled in that order until one fits. A combination that needs at least as much
memory as one that did not fit is skipped.
"""

import copy
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from scm_jax.errors import ConfigError
from scm_jax.planning import compile as compiler
from scm_jax.planning import estimate
from scm_jax.planning import plan as planning
from scm_jax.planning.estimate import Traffic
from scm_jax.planning.targets import Target

REMAT = ("none", "dots", "full")  # each keeps fewer activations than the last
PER_PASS = ("all-gather", "reduce-scatter")  # once for each microbatch


class Candidate(NamedTuple):
  """One way to run a config.

  Attributes:
    seconds: the predicted seconds of a step.
    microbatches: into how many parts a device's batch is split.
    remat: the rematerialization policy.
    data: the size of the mesh's axis `data`.
    fsdp: the size of the mesh's axis `fsdp`.
    resident: the bytes that a device holds between steps.
  """

  seconds: float
  microbatches: int
  remat: str
  data: int
  fsdp: int
  resident: int

  def rank(self) -> tuple:
    """Returns the sorting key: the fastest first, then the simplest."""
    policy = REMAT.index(self.remat)
    return self.seconds, self.microbatches, policy, self.fsdp

  def keeps_less(self, other: "Candidate") -> bool:
    """Returns whether it never needs more memory than `other`."""
    return (
      self.fsdp >= other.fsdp
      and REMAT.index(self.remat) >= REMAT.index(other.remat)
      and self.microbatches >= other.microbatches
    )

  def applied(self, config: ConfigDict) -> Any:
    """Returns a copy of the config that is run like this."""
    config = copy.deepcopy(config)
    config.update_from_flattened_dict(self.overrides())
    return config

  def flags(self) -> list[str]:
    """Returns the flags that run a config like this."""
    return [
      f"--config.{name}={value}" for name, value in self.overrides().items()
    ]

  def overrides(self) -> dict[str, Any]:
    """Returns the config's fields that run it like this."""
    return {
      "mesh.data": self.data,
      "mesh.fsdp": self.fsdp,
      "microbatches": self.microbatches,
      "network.remat": self.remat,
    }


def search(
  config: ConfigDict,
  target: Target,
  ask: Callable = compiler.ask,
  plan: Callable = planning.plan,
) -> dict[str, Any]:
  """Returns the plan of the first candidate that fits, else the last compiled.

  Args:
    config: the run's config; its mesh, microbatches and remat are not used.
    target: the devices.
    ask: a function that asks the worker, such as `compile.ask`.
    plan: a function that compiles a candidate, such as `plan.plan`.

  Returns:
    The plan and, under `search`: the `flags` of this candidate, the
    `images_per_pass` of a device, and the candidates `tried`, in order.

  Raises:
    ConfigError: the batch does not divide among the devices, or the state fits
      on no mesh.
  """
  capacity = int(target.card.memory * target.card.usable)
  tried: list[tuple[Candidate, dict[str, Any]]] = []
  for candidate in candidates(config, target, ask):
    if candidate.resident > capacity or _hopeless(candidate, tried, capacity):
      continue
    result = plan(candidate.applied(config), target)
    tried.append((candidate, result))
    if result["fits"]:
      break
  if not tried:
    raise ConfigError(
      f"the state fits on no mesh of {target.name}, even with fsdp="
      f"{target.devices}: a program can use {capacity / 1e9:.1f} GB of each "
      "device; use more devices"
    )
  chosen, result = tried[-1]
  per_device = config.batch_size // target.devices
  return result | {
    "search": {
      "flags": chosen.flags(),
      "images_per_pass": per_device // chosen.microbatches,
      "tried": [
        {
          "flags": candidate.flags(),
          "peak_bytes_per_device": found["peak_bytes_per_device"],
          "fits": found["fits"],
        }
        for candidate, found in tried
      ],
    }
  }


def candidates(
  config: ConfigDict, target: Target, ask: Callable = compiler.ask
) -> list[Candidate]:
  """Returns all ways to run a config, the fastest first.

  Args:
    config: the run's config.
    target: the devices.
    ask: a function that asks the worker, such as `compile.ask`.

  Raises:
    ConfigError: the batch does not divide among the devices.
  """
  if config.batch_size % target.devices:
    raise ConfigError(
      f"config.batch_size={config.batch_size} cannot be divided among "
      f"{target.devices} devices"
    )
  per_device = config.batch_size // target.devices
  meshes = [(target.devices // n, n) for n in _divisors(target.devices)]
  start = copy.deepcopy(config)
  start.microbatches = 1
  flops = {}
  for policy in REMAT:
    start.network.remat = policy
    flops[policy] = ask(start, target, flops=True)["flops"]["step"]
  rows = ask(start, target, meshes=meshes)["arithmetic"]
  found = []
  for (data, fsdp), row in zip(meshes, rows, strict=True):
    resident = sum(row["resident"].values())
    sent = [Traffic(**traffic) for traffic in row["traffic"]]
    for count, policy in itertools.product(_divisors(per_device), REMAT):
      traffic = [_repeated(each, count) for each in sent]
      share = flops[policy] / target.devices
      times = estimate.times(target, share, resident, traffic)
      # Where the rates are unknown, rank by FLOPs and bytes.
      seconds = times.serial if times else share + estimate.total(traffic)
      found.append(Candidate(seconds, count, policy, data, fsdp, resident))
  return sorted(found, key=Candidate.rank)


def _hopeless(
  candidate: Candidate,
  tried: list[tuple[Candidate, dict[str, Any]]],
  capacity: int,
) -> bool:
  """Returns whether an earlier failure shows that a candidate cannot fit."""

  def rules_out(failed: Candidate, result: dict[str, Any]) -> bool:
    if failed.keeps_less(candidate):
      return True
    alike = (failed.fsdp, failed.remat) == (candidate.fsdp, candidate.remat)
    # At best, all bytes but the resident ones shrink with the images of a pass.
    rest = result["peak_bytes_per_device"] - failed.resident
    least = rest * failed.microbatches / candidate.microbatches
    return alike and candidate.resident + least > capacity

  return any(rules_out(*pair) for pair in tried)


def _repeated(traffic: Traffic, passes: int) -> Traffic:
  """Returns the traffic of a step with so many microbatches instead of one."""
  times = passes if traffic.kind in PER_PASS else 1
  return traffic._replace(bytes=traffic.bytes * times)


def _divisors(n: int) -> list[int]:
  return [d for d in range(1, n + 1) if n % d == 0]
