"""The cheapest way to run a config on a target: mesh, microbatches, remat.

The global batch is the config's. Every combination is ranked by the time that
arithmetic predicts, and the best are compiled until one fits; those that can
only need more memory than one that did not fit are passed over.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from scm_jax.errors import ConfigError
from scm_jax.planning import compile as compiler
from scm_jax.planning import estimate
from scm_jax.planning import plan as planning
from scm_jax.planning.estimate import Traffic
from scm_jax.planning.targets import Target

REMAT = ("none", "dots", "full")  # each keeps less than the one before
PER_PASS = ("all-gather", "reduce-scatter")  # once for each microbatch


class Candidate(NamedTuple):
  """One way to run a config.

  Attributes:
    seconds: of a step, predicted.
    microbatches: of each device's batch.
    remat: policy.
    data, fsdp: sizes of the mesh.
    resident: bytes that a device holds between steps.
  """

  seconds: float
  microbatches: int
  remat: str
  data: int
  fsdp: int
  resident: int

  def rank(self) -> tuple:
    """The fastest come first; of equals, the plainest."""
    policy = REMAT.index(self.remat)
    return self.seconds, self.microbatches, policy, self.fsdp

  def keeps_less(self, other: "Candidate") -> bool:
    """Whether it needs no more memory than `other`, whatever the compiler."""
    return (
      self.fsdp >= other.fsdp
      and REMAT.index(self.remat) >= REMAT.index(other.remat)
      and self.microbatches >= other.microbatches
    )

  def applied(self, config: Any) -> Any:
    """The config, run so."""
    config = copy.deepcopy(config)
    config.mesh.update(data=self.data, fsdp=self.fsdp)
    config.microbatches = self.microbatches
    config.network.remat = self.remat
    return config


def search(
  config: Any,
  target: Target,
  ask: Callable = compiler.ask,
  plan: Callable = planning.plan,
) -> dict[str, Any]:
  """The plan of the first candidate that fits, else of the last compiled.

  Args:
    config: the run's config; its mesh, microbatches and remat are not used.
    target: the devices.
    ask: the worker; see `compile.ask`.
    plan: what compiles a candidate; see `plan.plan`.

  Returns:
    The plan, with `search`: the `flags` that make the config run like this,
    `images_per_pass` of a device, and what was `tried` in order, with peaks.

  Raises:
    ConfigError: the batch does not divide, or the state of no mesh would fit.
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
      f"no mesh of {target.name} holds the state: with fsdp={target.devices} "
      f"a device has {capacity / 1e9:.1f} GB; take more devices"
    )
  chosen, result = tried[-1]
  per_device = config.batch_size // target.devices
  return result | {
    "search": {
      "flags": _flags(chosen),
      "images_per_pass": per_device // chosen.microbatches,
      "tried": [
        {
          "flags": _flags(candidate),
          "peak_bytes_per_device": found["peak_bytes_per_device"],
          "fits": found["fits"],
        }
        for candidate, found in tried
      ],
    }
  }


def candidates(
  config: Any, target: Target, ask: Callable = compiler.ask
) -> list[Candidate]:
  """All ways to run a config, the fastest first."""
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
    for microbatches in _divisors(per_device):
      traffic = [_repeated(Traffic(**t), microbatches) for t in row["traffic"]]
      for policy in REMAT:
        share = flops[policy] / target.devices
        times = estimate.times(target, share, resident, traffic)
        # Without rates, what a device computes and sends still ranks.
        seconds = (
          times.serial if times else share + sum(t.bytes for t in traffic)
        )
        found.append(
          Candidate(seconds, microbatches, policy, data, fsdp, resident)
        )
  return sorted(found, key=Candidate.rank)


def _hopeless(
  candidate: Candidate,
  tried: list[tuple[Candidate, dict[str, Any]]],
  capacity: int,
) -> bool:
  """Whether what was tried rules the candidate out."""

  def rules_out(failed: Candidate, result: dict[str, Any]) -> bool:
    if failed.keeps_less(candidate):
      return True
    alike = (failed.fsdp, failed.remat) == (candidate.fsdp, candidate.remat)
    # At best, all that is not resident shrinks with the images of a pass.
    rest = result["peak_bytes_per_device"] - failed.resident
    least = rest * failed.microbatches / candidate.microbatches
    return alike and candidate.resident + least > capacity

  return any(rules_out(*pair) for pair in tried)


def _repeated(traffic: Traffic, passes: int) -> Traffic:
  times = passes if traffic.kind in PER_PASS else 1
  return traffic._replace(bytes=traffic.bytes * times)


def _divisors(n: int) -> list[int]:
  return [d for d in range(1, n + 1) if n % d == 0]


def _flags(candidate: Candidate) -> list[str]:
  return [
    f"--config.mesh.data={candidate.data}",
    f"--config.mesh.fsdp={candidate.fsdp}",
    f"--config.microbatches={candidate.microbatches}",
    f"--config.network.remat={candidate.remat}",
  ]
