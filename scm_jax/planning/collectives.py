"""Reads the collectives of a compiled program from its HLO text.

Bytes are those that one device sends if each collective runs as a ring, which
sends as few as possible: in a group of n devices, `(n - 1) / n` of an
all-gather's result or a reduce-scatter's operand, and twice that for an
all-reduce. What is inside a loop counts once for each iteration. The text lists
instructions in the order in which they start.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

KINDS: tuple[str, ...] = tuple(
  "all-gather all-reduce reduce-scatter all-to-all collective-permute".split()
)
PRODUCT, OTHER = "product", "other"
_OTHERS = {
  "ragged-all-to-all": "all-to-all",
  "collective-broadcast": "all-gather",
}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$", re.MULTILINE)
_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>.*?) "
  r"(?P<opcode>[a-z][a-z\d\-]*)\("
)
_NAME = re.compile(r"%([\w.\-]+)")
_COMPUTES = "fusion custom-call while call".split()
_LIBRARY = re.compile(r'custom_call_target="__(?:cudnn|cublas|onednn)')
_SHAPE = re.compile(r"\b(pred|[a-z]+)(\d*)\w*\[([\d,]*)\]")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
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
  bodies, entry = computations(text)
  times = dict.fromkeys(bodies, 0)

  def visit(name: str, count: int) -> None:
    times[name] += count
    for called, trips in _calls(bodies[name]):
      if called in bodies:
        visit(called, count * trips)

  visit(entry, 1)
  products, meanwhile = _products(bodies), {}
  for lines in bodies.values():
    meanwhile |= _meanwhile(lines, products)
  # A collective may be all of a computation that is called asynchronously.
  for line, what in list(meanwhile.items()):
    meanwhile |= {name: what for name, _ in _calls([line])}
  return [
    collective._replace(meanwhile=meanwhile.get(line, meanwhile.get(name, "")))
    for name, lines in bodies.items()
    if times[name]
    for line in lines
    if (collective := _collective(line, times[name], devices))
  ]


def counts(collectives: list[Collective]) -> dict[str, int]:
  """Returns how many collectives of each kind a step runs."""
  return {
    kind: sum(c.times for c in collectives if c.kind == kind) for kind in KINDS
  }


def computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Returns the lines of each computation by its name, and the entry's name."""
  _, *parts = _COMPUTATION.split(text)
  marks, names, bodies = parts[::3], parts[1::3], parts[2::3]
  if "ENTRY " not in marks:
    raise ValueError("the module has no entry computation")
  lines = map(str.splitlines, bodies)
  return dict(zip(names, lines, strict=True)), names[marks.index("ENTRY ")]


def _products(bodies: dict[str, list[str]]) -> set[str]:
  """Returns the computations that multiply matrices, or call one that does."""

  @functools.cache
  def multiplies(name: str) -> bool:
    lines = bodies.get(name, [])
    called = (name for name, _ in _calls(lines))
    return any(map(_multiplies, lines)) or any(map(multiplies, called))

  return set(filter(multiplies, bodies))


def _multiplies(line: str) -> bool:
  found = _INSTRUCTION.match(line)
  opcode = found["opcode"] if found else ""
  library = opcode == "custom-call" and _LIBRARY.search(line)
  return opcode in ("convolution", "dot") or bool(library)


def _meanwhile(lines: list[str], products: set[str]) -> dict[str, str]:
  """Returns what is computed meanwhile, by the lines that start something."""
  found, running = {}, {}
  for line in lines:
    instruction = _INSTRUCTION.match(line)
    opcode = instruction["opcode"] if instruction else ""
    if instruction and opcode.endswith("-start"):
      running[instruction["name"]] = line
    elif opcode.endswith("-done"):
      for name in _NAME.findall(line):
        running.pop(name, None)
    elif _multiplies(line) or products & {n for n, _ in _calls([line])}:
      found |= dict.fromkeys(running.values(), PRODUCT)
    elif opcode in _COMPUTES:
      found = dict.fromkeys(running.values(), OTHER) | found
  return found


def _calls(lines: list[str]) -> Iterator[tuple[str, int]]:
  """Yields the computations that a computation calls, and how often."""
  for line in lines:
    found = _INSTRUCTION.match(line)
    # The end of an asynchronous call names the same computation as its start.
    if not found or found["opcode"].endswith(("-done", "-update")):
      continue
    loop = _TRIPS.search(line) if found["opcode"] == "while" else None
    trips = int(loop[1]) if loop else 1
    for _, name in _CALLED.findall(line):
      yield name, trips
    conditional = found["opcode"] == "conditional"
    for names in _BRANCHES.findall(line) if conditional else ():
      for name in names.split(","):
        yield name.strip().lstrip("%"), 1


def _collective(line: str, times: int, devices: int) -> Collective | None:
  """Returns the collective of a line, or None for any other instruction."""
  found = _INSTRUCTION.match(line)
  opcode = found["opcode"].removesuffix("-start") if found else ""
  kind = _OTHERS.get(opcode, opcode)
  if not found or kind not in KINDS:
    return None
  group = _group(line, devices)
  size = len(group)
  if size < 2:
    return None
  shapes = [array_bytes(*shape) for shape in _SHAPE.findall(found["shape"])]
  if found["opcode"] == "collective-permute-start":
    shapes = shapes[1:2]  # operand, result, contexts
  elif found["opcode"].endswith("-start") and kind != "all-reduce":
    shapes = shapes[len(shapes) // 2 :]  # operands, results
  factor = {
    "all-reduce": 2 * (size - 1) / size,
    "reduce-scatter": size - 1,
    "collective-permute": 1,
  }.get(kind, (size - 1) / size)
  return Collective(kind, times, factor * sum(shapes), group)


def array_bytes(letters: str, bits: str, sizes: str) -> int:
  """Returns the bytes of `f32[8,3]`, given as `f`, `32` and `8,3`."""
  width = 8 if letters == "pred" else int(bits or 0)
  elements = math.prod(int(n) for n in sizes.split(",") if n)
  return math.ceil(elements * width / 8)


def _group(line: str, devices: int) -> tuple[int, ...]:
  """Returns the first group of devices in a collective's line."""
  if found := _MESH.search(line):
    return _mesh_group(found, devices)
  if found := _IOTA.search(line):
    rows, columns, shape, order = found.groups()
    numbers = _numbers(devices, shape, order)
    return tuple(numbers.reshape(int(rows), int(columns))[0].tolist())
  if found := _LISTED.search(line):
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
