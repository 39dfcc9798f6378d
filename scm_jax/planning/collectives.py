"""Reads the collectives of a compiled program from its HLO text.

Bytes are those that one device sends if each collective runs as a ring, which
sends as few as possible: in a group of n devices, `(n - 1) / n` of an
all-gather's result or a reduce-scatter's operand, and twice that for an
all-reduce. What is inside a loop counts once for each iteration.
"""

import functools
import math
import re
from typing import NamedTuple

import numpy as np

from scm_jax.planning import hlo
from scm_jax.planning.hlo import Instruction

KINDS: tuple[str, ...] = tuple(
  "all-gather all-reduce reduce-scatter all-to-all collective-permute".split()
)
PRODUCT, OTHER = "product", "other"
_OTHERS = {
  "ragged-all-to-all": "all-to-all",
  "collective-broadcast": "all-gather",
}
_COMPUTES = "fusion custom-call while call".split()
_LIBRARIES = ("__cudnn", "__cublas", "__onednn")  # which multiply
_LISTED = re.compile(
  r"(?:replica_groups|source_target_pairs)=\{ *\{([\d, ]*)\}"
)
_IOTA = re.compile(
  r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
)
_MESH = re.compile(
  r"replica_groups=mesh\[([^\]]*)\]"
  r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)


class Collective(NamedTuple):
  """One collective instruction.

  Attributes:
    kind: a name in `KINDS`.
    times: how often a step runs it.
    bytes: how many bytes a device sends each time.
    group: the positions in the mesh of the first group of devices.
    meanwhile: what is computed between its start and its end: `PRODUCT` if
      there is a convolution or a product, `OTHER`, or "" for nothing.
  """

  kind: str
  times: int
  bytes: float
  group: tuple[int, ...]
  meanwhile: str = ""


def parse(text: str, devices: int) -> list[Collective]:
  """Returns the collectives of a compiled module that runs on some devices.

  The text is the module's HLO, from `compiled.as_text()`. Raises ValueError if
  it has no entry computation.
  """
  bodies, entry = hlo.parse(text)
  times = hlo.times(bodies, entry)
  products, meanwhile = _products(bodies), {}
  for body in bodies.values():
    meanwhile |= _meanwhile(body, products)
  # A collective may be all of a computation that is called asynchronously.
  for instruction, what in list(meanwhile.items()):
    meanwhile |= dict.fromkeys(instruction.called, what)
  return [
    found._replace(meanwhile=meanwhile.get(i, meanwhile.get(name, "")))
    for name, body in bodies.items()
    if name in times
    for i in body
    if (found := _collective(i, times[name], devices))
  ]


def counts(collectives: list[Collective]) -> dict[str, int]:
  """Returns how many collectives of each kind a step runs."""
  return {
    kind: sum(c.times for c in collectives if c.kind == kind) for kind in KINDS
  }


def _products(bodies: hlo.Bodies) -> set[str]:
  """Returns the computations that multiply matrices, or call one that does."""

  @functools.cache
  def multiplies(name: str) -> bool:
    body = bodies.get(name, [])
    called = (name for i in body for name in i.called)
    return any(map(_multiplies, body)) or any(map(multiplies, called))

  return set(filter(multiplies, bodies))


def _multiplies(i: Instruction) -> bool:
  in_library = i.library.startswith(_LIBRARIES)
  return i.opcode in ("convolution", "dot") or in_library


def _meanwhile(
  body: list[Instruction], products: set[str]
) -> dict[Instruction | str, str]:
  """Returns what is computed meanwhile, by what starts something."""
  found, running = {}, {}
  for i in body:
    if i.opcode.endswith("-start"):
      running[i.name] = i
    elif i.opcode.endswith("-done"):
      for name in i.operands:
        running.pop(name, None)
    elif _multiplies(i) or products & set(i.called):
      found |= dict.fromkeys(running.values(), PRODUCT)
    elif i.opcode in _COMPUTES:
      found = dict.fromkeys(running.values(), OTHER) | found
  return found


def _collective(i: Instruction, times: int, devices: int) -> Collective | None:
  """Returns what an instruction sends, or None if it is no collective."""
  opcode = i.opcode.removesuffix("-start")
  kind = _OTHERS.get(opcode, opcode)
  if kind not in KINDS:
    return None
  group = _group(i.rest, devices)
  size = len(group)
  if size < 2:
    return None
  arrays = hlo.sizes(i.shape)
  if i.opcode == "collective-permute-start":
    arrays = arrays[1:2]  # operand, result, contexts
  elif i.opcode.endswith("-start") and kind != "all-reduce":
    arrays = arrays[len(arrays) // 2 :]  # operands, results
  factor = {
    "all-reduce": 2 * (size - 1) / size,
    "reduce-scatter": size - 1,
    "collective-permute": 1,
  }.get(kind, (size - 1) / size)
  return Collective(kind, times, factor * sum(arrays), group)


def _group(text: str, devices: int) -> tuple[int, ...]:
  """Returns the first group of devices in a collective's text."""
  if found := _MESH.search(text):
    return _mesh_group(found, devices)
  if found := _IOTA.search(text):
    rows, columns, shape, order = found.groups()
    numbers = _numbers(devices, shape, order)
    return tuple(numbers.reshape(int(rows), int(columns))[0].tolist())
  if found := _LISTED.search(text):
    return tuple(_ints(found[1]))
  # In an unknown notation: all devices, which send the most.
  return tuple(range(devices))


def _mesh_group(found: re.Match, devices: int) -> tuple[int, ...]:
  """Reads `mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}`."""
  axes, shape, order, chosen = found.groups()
  sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes)}
  names = re.findall(r"'(\w+)'", chosen)
  if "(" in chosen or math.prod(sizes.values()) != devices:
    return tuple(range(devices))  # the group is along a part of an axis
  numbers = _numbers(devices, shape or str(devices), order)
  numbers = numbers.reshape(tuple(sizes.values()))
  along = tuple(slice(None) if name in names else 0 for name in sizes)
  return tuple(numbers[along].ravel().tolist())


def _numbers(devices: int, shape: str, order: str | None) -> np.ndarray:
  """Returns device numbers in a shape, with its axes in another order."""
  numbers = np.arange(devices).reshape(_ints(shape))
  return numbers.transpose(_ints(order)) if order else numbers


def _ints(text: str) -> list[int]:
  return [int(n) for n in text.split(",") if n.strip()]
