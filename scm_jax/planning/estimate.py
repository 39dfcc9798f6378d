"""How long a step takes, from published rates and stated assumptions.

A prediction, not a measurement: `bench` measures.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from scm_jax.planning.targets import Card, Target

# Part of the peak that convolutions and products reach, recomputation
# included: what large U-Nets in bfloat16 do, neither bad nor good.
EFFICIENCY = 0.4
DEVICES = (8, 64, 256, 1024)  # of the weak scaling


class Traffic(NamedTuple):
  """Bytes of one kind of collective among devices of one arrangement.

  Attributes:
    kind: a name in `collectives.KINDS`.
    bytes: that a device sends in a step.
    size: devices that take part together.
    local: of those, the ones in the same domain of fast links.
  """

  kind: str
  bytes: float
  size: int
  local: int


def total(traffic: Iterable[Traffic]) -> float:
  """Bytes that a device sends in a step."""
  return sum(t.bytes for t in traffic)


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of one step.

  Attributes:
    compute: passes of the networks.
    update: the optimiser and the averages: the state read and written.
    communication: collectives.
  """

  compute: float
  update: float
  communication: float

  @property
  def serial(self) -> float:
    """If nothing overlaps."""
    return self.compute + self.update + self.communication

  @property
  def overlapped(self) -> float:
    """If all communication that can hide behind computation does."""
    return max(self.compute, self.communication) + self.update

  def efficiency(self, seconds: float) -> float:
    """Of a step of so many seconds, against one without communication."""
    return (self.compute + self.update) / seconds


def weighted_flops(
  config: Any, card: Card, step: float, forward: float
) -> float:
  """FLOPs of a step, counted by the time that they take in bfloat16.

  Args:
    config: of the run; its types and precisions decide.
    card: the device.
    step: FLOPs of the step, by XLA's count.
    forward: those of one forward pass of the network.
  """
  network, objective = config.network, config.objective
  cost = card.cost(network.dtype, network.precision)
  if config.run == "teacher" or not objective.tangent_dtype:
    return step * cost
  teaching = 2 if objective.guidance != "none" else 1
  passes = 2 + (teaching if config.run == "scd" else 0)
  apart = passes * forward
  precise = card.cost(objective.tangent_dtype, objective.tangent_precision)
  return (step - apart) * cost + apart * precise


def times(
  target: Target, flops: float, state_bytes: int, traffic: Iterable[Traffic]
) -> Times | None:
  """What a step takes on the target; None where its rates are not known.

  Args:
    target: the devices.
    flops: of one device, see `weighted_flops`.
    state_bytes: of the state on one device.
    traffic: of one device, see `Traffic`.
  """
  card = target.card
  if not card.flops:
    return None
  return Times(
    flops / (card.flops * EFFICIENCY),
    2 * state_bytes / card.bandwidth,
    sum(t.bytes / bandwidth(card, t.size, t.local) for t in traffic),
  )


def bandwidth(card: Card, size: int, local: int) -> float:
  """Bytes a second that each device of a group can send.

  Args:
    card: the devices.
    size: of the group.
    local: its devices that share a domain of fast links. They share their
      network ports too, so that a ring through all of them is as fast as
      those together.
  """
  if local >= size:
    return card.link
  return min(card.link, card.network * local)


def mesh_at(devices: int, fsdp: int) -> tuple[int, int]:
  """Sizes of `data` and `fsdp` when a run grows: `fsdp` stays."""
  fsdp = math.gcd(fsdp, devices)
  return devices // fsdp, fsdp


def assumptions(target: Target) -> list[str]:
  """What the times rest on, in words."""
  card = target.card
  rate = lambda value: f"{value / 1e9:g} GB/s"
  fast = "NVLink" if card.platform == "gpu" else "ICI"
  return [
    f"{EFFICIENCY:.0%} of {(card.flops or 0) / 1e12:g} TFLOP/s (bfloat16) is "
    "reached, and as much of what float32 products have",
    f"{fast} {rate(card.link)} one way among {target.domain} devices, "
    f"{rate(card.network)} a device beyond",
    f"the update reads and writes the state at {rate(card.bandwidth)}",
    "data arrives in time; no stragglers, restarts or evaluations",
  ]
