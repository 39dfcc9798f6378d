"""The hardware that runs are planned for: memory and rates, by name.

All rates are those that the makers publish, dense and one-way, per device:

* A100: NVIDIA A100 Tensor Core GPU data sheet (SXM4; NVLink 600 GB/s both ways)
  and DGX A100's (one 200 Gb/s port for each GPU).
* H100, H200: NVIDIA's data sheets (SXM5; NVLink 900 GB/s both ways) and DGX
  H100's (one 400 Gb/s port for each GPU).
* TPU v5e, v5p, v6e: cloud.google.com/tpu/docs, system architecture of each
  (inter-chip links 400, 1200 and 800 GB/s both ways; pods of 256, 8960 and 256
  chips; network of the data centre 6.4 Tb/s a pod, 50 Gb/s a chip, 25.6 Tb/s a
  pod).
"""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from scm_jax import errors
from scm_jax.errors import ConfigError

GB, GIB = 10**9, 2**30


@dataclasses.dataclass(frozen=True)
class Card:
  """One kind of device.

  Attributes:
    platform: `gpu`, `tpu` or `cpu`.
    memory: the bytes of its memory.
    usable: the fraction of the memory that a program can use. The rest holds
      the driver and the collectives' buffers, and is lost to fragmentation.
    flops: bfloat16 operations per second; None if the rates are unknown.
    bandwidth: bytes per second between the device and its memory.
    link: bytes per second to the devices of its domain, by NVLink or ICI.
    network: bytes per second to devices outside its domain.
    pod: how many devices form a domain; 0 means the devices of one host.
    cores: how many multiprocessors a GPU has.
    capability: a GPU's compute capability.
    float32: how many times longer a float32 product takes than a bfloat16 one,
      by `config.network.precision`.
  """

  platform: str
  memory: int
  usable: float = 1.0
  flops: float | None = None
  bandwidth: float = 0.0
  link: float = 0.0
  network: float = 0.0
  pod: int = 0
  cores: int = 0
  capability: tuple[int, int] = (0, 0)
  float32: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def cost(self, dtype: str, precision: str) -> float:
    """Returns how many times longer a product takes than in bfloat16."""
    wide = dtype in ("float32", "float64")
    return self.float32.get(precision, 1.0) if wide else 1.0


# How much longer float32 takes. A GPU's true float32 runs at 19.5 (A100) or 67
# TFLOP/s, and "high" is TensorFloat-32. A TPU's is made of several bfloat16
# products (openxla.org, PrecisionConfig).
_AMPERE = {"highest": 16.0, "high": 2.0, "default": 2.0}
_HOPPER = _AMPERE | {"highest": 14.8}
_TPU = {"highest": 6.0, "high": 3.0, "default": 1.0}


def _card(
  platform: str, memory: int, rates: tuple[float, ...], **fields: Any
) -> Card:
  """Returns a card, given TFLOP/s and GB/s of memory, links and network."""
  tflops, *bandwidths = rates
  bandwidth, link, network = (rate * GB for rate in bandwidths)
  rated = {"bandwidth": bandwidth, "link": link, "network": network}
  return Card(platform, memory, flops=tflops * 1e12, **rated, **fields)


VIRTUAL = 1024  # devices of the CPU at most; 4096 take JAX half a minute
_gpu = functools.partial(_card, "gpu", usable=0.92)
_tpu = functools.partial(_card, "tpu", float32=_TPU)
_A100 = {"cores": 108, "capability": (8, 0), "float32": _AMPERE}
_H100 = {"cores": 132, "capability": (9, 0), "float32": _HOPPER}
CARDS = {
  # The bytes that the driver reports.
  "a100-40gb": _gpu(42_331_013_120, (312, 1555, 300, 25), **_A100),
  "a100-80gb": _gpu(85_100_068_864, (312, 2039, 300, 25), **_A100),
  "h100-80gb": _gpu(84_942_979_072, (989.4, 3350, 450, 50), **_H100),
  "h200": _gpu(151_397_597_184, (989.4, 4800, 450, 50), **_H100),
  "v5e": _tpu(16 * GIB, (197, 819, 200, 3.125), pod=256),
  "v5p": _tpu(95 * GIB, (459, 2765, 600, 6.25), pod=8960),
  "v6e": _tpu(32 * GIB, (918, 1600, 400, 12.5), pod=256),
  "cpu": Card("cpu", 0),  # its memory is this machine's, see `parse`
}
# The names that JAX gives these devices. Cards with the same chip on PCIe, and
# partitioned ones, are slower and not listed.
DEVICE_KINDS = {
  "NVIDIA A100-SXM4-40GB": "a100-40gb",
  "NVIDIA A100-SXM4-80GB": "a100-80gb",
  "NVIDIA H100 80GB HBM3": "h100-80gb",
  "NVIDIA H200": "h200",
  "TPU v5 lite": "v5e",
  "TPU v5": "v5p",
  "TPU v5p": "v5p",
  "TPU v6 lite": "v6e",
}


# How a topology is written, by kind or else by platform; an example; the
# smallest.
_FORMS = {
  "cpu": ("DEVICES", "8", "1"),
  "v5p": ("XxYxZ", "4x4x4", "2x2x1"),
  "tpu": ("XxY", "8x8", "2x2"),
  "gpu": ("HOSTSxDEVICES", "8x8", "1x1"),
}


@dataclasses.dataclass(frozen=True)
class Target:
  """A number of devices of one kind, a name in `CARDS`.

  Attributes:
    topology: for GPUs the numbers of hosts and of devices in each, for TPUs the
      slice's sides, for `cpu` the number of devices.
    card: the kind's memory and rates.
  """

  name: str
  kind: str
  topology: tuple[int, ...]
  card: Card

  @property
  def devices(self) -> int:
    return math.prod(self.topology)

  @property
  def domain(self) -> int:
    """How many devices fast links connect: a host's, or a pod's."""
    return self.card.pod or self.topology[-1]

  def with_network(self, gbps: float) -> "Target":
    """Returns the target with hosts whose network carries `gbps` Gb/s.

    Raises:
      ConfigError: the rate is not positive, or the target has no GPUs.
    """
    if self.card.platform != "gpu" or not 0 < gbps < math.inf:
      raise ConfigError("--host-gbps needs a positive number and a GPU target")
    network = gbps * 1e9 / 8 / self.topology[-1]
    card = dataclasses.replace(self.card, network=network)
    return dataclasses.replace(self, card=card)


def parse(text: str, *, one: bool = False) -> Target:
  """Returns the target that `a100-80gb:8x8`, `v5p:4x4x4` or `cpu:8` names.

  With `one`, a kind alone is its smallest.

  Raises:
    ConfigError: the kind is unknown, or does not have such a topology.
  """
  kind, colon, topology = text.partition(":")
  if kind not in CARDS:
    longer = [name for name in CARDS if name.startswith(kind)]
    raise ConfigError(f"--target={text}: {errors.hint(kind, longer or CARDS)}")
  card = CARDS[kind]
  form, example, smallest = _FORMS.get(kind) or _FORMS[card.platform]
  if one and not colon:
    text, topology = f"{kind}:{smallest}", smallest
  pattern = "x".join([r"[1-9]\d*"] * (example.count("x") + 1))
  if not re.fullmatch(pattern, topology):
    raise ConfigError(
      f"--target={text}: give {kind}:{form}, such as {kind}:{example}"
    )
  sizes = _sides(topology)
  least = _sides(smallest)  # what a host of a TPU slice has
  if any(n % by for n, by in zip(sizes, least, strict=True)):
    raise ConfigError(
      f"--target={text}: the sides of a slice are multiples of {smallest}, as "
      f"those of {kind}:{example} are"
    )
  if kind == "cpu":  # virtual devices share the memory of this machine
    if sizes[0] > VIRTUAL:
      raise ConfigError(f"--target={text}: give at most {VIRTUAL} devices")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    card = Card("cpu", memory // sizes[0])
  return Target(text, kind, sizes, card)


def card_here(device_kind: str) -> Card | None:
  """Returns the card that JAX's `Device.device_kind` names, if it is known."""
  return CARDS.get(DEVICE_KINDS.get(device_kind, ""))


def _sides(topology: str) -> tuple[int, ...]:
  return tuple(map(int, topology.split("x")))
