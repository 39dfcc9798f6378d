"""Predicts how long a step takes, from published rates and assumptions."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from scm_jax.defaults import Run
from scm_jax.planning.targets import Card, Target
from scm_jax.training import evaluations
from scm_jax.training.benchmarks import sampling

# The fraction of the peak rate that convolutions and products reach, with
# recomputation: an average value for large U-Nets in bfloat16.
EFFICIENCY = 0.4
UPDATED = ("parameters", "moments", "averages")  # what an update rewrites
DEVICES = (8, 64, 256, 1024)  # for which weak scaling is predicted


class Traffic(NamedTuple):
  """The traffic of all collectives of one kind among groups of one size.

  Attributes:
    kind: a name in `collectives.KINDS`.
    bytes: how many bytes each device sends in a step.
    size: how many devices form a group.
    local: how many devices of a group share a domain of fast links.
  """

  kind: str
  bytes: float
  size: int
  local: int


def total(traffic: Iterable[Traffic]) -> float:
  """Returns the bytes that a device sends in a step."""
  return sum(t.bytes for t in traffic)


class Times(NamedTuple):
  """The seconds of a step for the networks, the state's update, and traffic."""

  compute: float
  update: float
  communication: float

  @property
  def serial(self) -> float:
    """The seconds of a step if nothing overlaps."""
    return self.compute + self.update + self.communication

  @property
  def overlapped(self) -> float:
    """The seconds of a step if communication overlaps computation."""
    return max(self.compute, self.communication) + self.update

  def efficiency(self, seconds: float) -> float:
    """Returns the part of a step's `seconds` that is not communication."""
    return (self.compute + self.update) / seconds


def weighted_flops(
  config: Run, card: Card, step: float, forward: float
) -> float:
  """Returns how many bfloat16 FLOPs take as long as a step's FLOPs.

  The config's types and precisions decide. The FLOPs of a `step` and of one
  `forward` pass of the network are those that XLA counts.
  """
  network, objective = config.network, config.objective
  cost = card.cost(network.dtype, network.precision)
  if not objective.tangent_pass:
    return step * cost
  apart = evaluations.apart(config) * forward
  return (step - apart) * cost + apart * card.cost(*objective.tangent_pass)


def times(
  target: Target, flops: float, state_bytes: int, traffic: Iterable[Traffic]
) -> Times | None:
  """Returns the times of a step, or None where the target's rates are unknown.

  One device computes `flops` (see `weighted_flops`), reads and writes the state
  once, and sends the traffic.
  """
  card = target.card
  if not card.flops:
    return None
  return Times(
    flops / (card.flops * EFFICIENCY),
    2 * state_bytes / card.bandwidth,
    sum(t.bytes / bandwidth(card, t.size, t.local) for t in traffic),
  )


def step_times(
  config: Run,
  target: Target,
  flops: dict[str, float],
  resident: dict[str, int],
  traffic: Iterable[Traffic],
) -> Times | None:
  """Returns the times of a run's step, or None where rates are unknown.

  Args:
    config: the run's config.
    target: the devices.
    flops: those of a `step`, on all devices, and of one `forward` pass.
    resident: the bytes that a device holds between steps, by name.
    traffic: what a device sends in a step.
  """
  weighted = weighted_flops(
    config, target.card, flops["step"], flops["forward"]
  )
  state = sum(resident[name] for name in UPDATED)
  return times(target, weighted / target.devices, state, traffic)


def bandwidth(card: Card, size: int, local: int) -> float:
  """Returns the bytes per second that each device of a group can send.

  Of its `size` devices, `local` share a domain of fast links and their network
  ports, so that a ring through all of them has the ports' total rate.
  """
  return card.link if local >= size else min(card.link, card.network * local)


def mesh_at(devices: int, fsdp: int) -> tuple[int, int]:
  """Returns the sizes of `data` and `fsdp` for a larger run, keeping `fsdp`."""
  fsdp = math.gcd(fsdp, devices)
  return devices // fsdp, fsdp


def assumptions(target: Target) -> list[str]:
  """Returns sentences about what the predicted times assume."""
  card = target.card
  fast = "NVLink" if card.platform == "gpu" else "ICI"
  rate = lambda bytes_per_second: f"{bytes_per_second / 1e9:g} GB/s"
  return [
    f"{EFFICIENCY:.0%} of {(card.flops or 0) / 1e12:g} TFLOP/s (bfloat16) is "
    "reached, and the same fraction of the rate of float32 products",
    f"{fast} carries {rate(card.link)} one way among {target.domain} devices, "
    f"the network beyond them {rate(card.network)} a device",
    f"the update reads and writes the state at {rate(card.bandwidth)}",
    "the data arrive in time; there are no stragglers, restarts or evaluations",
  ]


def rates(card: Card | None) -> sampling.Rates | None:
  """Returns what a card does in a second, None if it is unknown."""
  if card is None or not card.flops:
    return None
  return sampling.Rates(card.flops, card.bandwidth)
