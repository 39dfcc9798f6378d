"""Searches the fastest way to run a config on a target.

The mesh, the number of microbatches and the rematerialization policy vary; the
global batch does not. All combinations are ranked by their predicted time and
compiled in that order until one fits; those that cannot fit are skipped.
"""

import copy
import itertools
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from scm_jax.errors import ConfigError
from scm_jax.planning import compile as compiler
from scm_jax.planning import estimate
from scm_jax.planning import plan as planning
from scm_jax.planning.estimate import Traffic
from scm_jax.planning.targets import Target
from scm_jax.training import resolve

REMAT = ("none", "dots", "full")  # each keeps fewer activations than the last
PER_PASS = ("all-gather", "reduce-scatter")  # once for each microbatch


class Candidate(NamedTuple):
  """One way to run a config, on a mesh of `data` times `fsdp` devices.

  Attributes:
    seconds: the predicted seconds of a step.
    microbatches: into how many parts a device's batch is split.
    remat: the rematerialization policy.
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

  def flags(self) -> list[str]:
    """Returns the flags that run a config like this."""
    return [f"--config.{name}={v}" for name, v in self.overrides().items()]

  def overrides(self) -> dict[str, Any]:
    """Returns the config's fields that run it like this."""
    return {
      "mesh.data": self.data,
      "mesh.fsdp": self.fsdp,
      "microbatches": self.microbatches,
      "network.remat": self.remat,
    }


def search(config: ConfigDict, target: Target) -> dict[str, Any]:
  """Returns the plan of the first candidate that fits, else the last compiled.

  It has an entry `search`: the `flags` of this candidate, the `images_per_pass`
  of a device, and the candidates `tried`, in order. The mesh, microbatches and
  remat of the config are not used.

  Raises:
    ConfigError: the batch does not divide among the devices, or the state fits
      on no mesh.
  """
  capacity = int(target.card.memory * target.card.usable)
  tried: list[tuple[Candidate, dict[str, Any]]] = []
  for candidate in candidates(config, target):
    hopeless = any(_rules_out(*pair, candidate, capacity) for pair in tried)
    if hopeless or candidate.resident > capacity:
      continue
    changed = copy.deepcopy(config)
    changed.update_from_flattened_dict(candidate.overrides())
    tried.append((candidate, planning.plan(changed, target)))
    if tried[-1][1]["fits"]:
      break
  if not tried:
    raise ConfigError(
      f"the state fits on no mesh of {target.name}, even with fsdp="
      f"{target.devices}: a program can use {capacity / 1e9:.1f} GB of each "
      "device; use more devices"
    )
  chosen, result = tried[-1]
  images = config.batch_size // target.devices // chosen.microbatches
  shown = ("peak_bytes_per_device", "fits")
  rows = [
    {"flags": candidate.flags()} | {name: found[name] for name in shown}
    for candidate, found in tried
  ]
  about = {"flags": chosen.flags(), "images_per_pass": images, "tried": rows}
  return result | {"search": about}


def candidates(config: ConfigDict, target: Target) -> list[Candidate]:
  """Returns all ways to run a config, the fastest first; see `search`."""
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
    flops[policy] = compiler.ask(start, target, flops=True)["flops"]
  run = resolve.resolve(start)
  rows = compiler.ask(start, target, meshes=meshes)["arithmetic"]
  found = []
  for (data, fsdp), row in zip(meshes, rows, strict=True):
    held = row["resident"]
    sent = [Traffic(**traffic) for traffic in row["traffic"]]
    for count, policy in itertools.product(_divisors(per_device), REMAT):
      traffic = [
        t._replace(bytes=t.bytes * count) if t.kind in PER_PASS else t
        for t in sent
      ]
      times = estimate.step_times(run, target, flops[policy], held, traffic)
      # Where the rates are unknown, rank by FLOPs and bytes.
      share = flops[policy]["step"] / target.devices
      seconds = times.serial if times else share + estimate.total(traffic)
      bytes_held = sum(held.values())
      found.append(Candidate(seconds, count, policy, data, fsdp, bytes_held))
  return sorted(found, key=Candidate.rank)


def _rules_out(
  failed: Candidate, result: dict[str, Any], other: Candidate, capacity: int
) -> bool:
  """Returns whether one candidate's failure shows that another cannot fit."""
  alike = (failed.fsdp, failed.remat) == (other.fsdp, other.remat)
  # At best, all bytes but the resident ones shrink with the images of a pass.
  rest = result["peak_bytes_per_device"] - failed.resident
  least = rest * failed.microbatches / other.microbatches
  beyond = alike and other.resident + least > capacity
  return failed.keeps_less(other) or beyond


def _divisors(n: int) -> list[int]:
  return [d for d in range(1, n + 1) if n % d == 0]
