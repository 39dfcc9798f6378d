"""Reads the computations of a compiled program from its HLO text.

Instructions are listed in the order in which they start.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$", re.MULTILINE)
_INSTRUCTION = re.compile(
  r"^ +(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z\d\-]*)\((([^)\n]*).*)$",
  re.MULTILINE,
)
_SHAPE = re.compile(r"\b(pred|[a-z]+)(\d*)\w*\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(
  r"\b(?:to_apply|body|condition|calls|true_computation|"
  r"false_computation|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LIBRARY = re.compile(r'custom_call_target="(__(?:cu|onednn)[^"]*)"')
# Instructions that do nothing but run other computations.
CONTROL = ("while", "call", "conditional", "async-start")


class Instruction(NamedTuple):
  """One instruction; `rest` is its text after the opcode's bracket."""

  root: bool
  name: str
  shape: str
  opcode: str
  rest: str
  operands: tuple[str, ...]

  @property
  def is_end(self) -> bool:
    """Whether it ends what another one started, and names the same again."""
    return self.opcode.endswith(("-done", "-update"))

  @property
  def called(self) -> list[str]:
    """The names of the computations that it runs."""
    if self.is_end:
      return []
    return [
      name
      for names in _CALLED.findall(self.rest)
      for name in re.findall(r"[\w.\-]+", names)
    ]

  @property
  def library(self) -> str:
    """The library's function that it calls (cuDNN, cuBLAS, oneDNN), or ""."""
    found = _LIBRARY.search(self.rest) if self.opcode == "custom-call" else None
    return found[1] if found else ""


Bodies = Mapping[str, list[Instruction]]  # of computations, by name


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
  """Returns the instructions of each computation, and the entry's name.

  Raises:
    ValueError: the text, of `compiled.as_text()`, has no entry computation.
  """
  _, *parts = _COMPUTATION.split(text)
  marks, names, bodies = parts[::3], parts[1::3], parts[2::3]
  if "ENTRY " not in marks:
    raise ValueError("the module has no entry computation")
  found = {
    name: [
      Instruction(bool(root), own, shape, opcode, rest, _names(inside))
      for root, own, shape, opcode, rest, inside in _INSTRUCTION.findall(body)
    ]
    for name, body in zip(names, bodies, strict=True)
  }
  return found, names[marks.index("ENTRY ")]


def _names(text: str) -> tuple[str, ...]:
  return tuple(re.findall(r"%([\w.\-]+)", text))


def times(
  bodies: Bodies, entry: str, through: Collection[str] = ()
) -> dict[str, int]:
  """Returns how often a program runs each computation that it reaches.

  It is reached by instructions of the opcodes `through`, () for any. What a
  loop runs counts once for each iteration.
  """
  found: dict[str, int] = {}

  def visit(name: str, count: int) -> None:
    found[name] = found.get(name, 0) + count
    for instruction in bodies[name]:
      if through and instruction.opcode not in through:
        continue
      trips = _TRIPS.search(instruction.rest)
      for called in instruction.called:
        if called in bodies:
          visit(called, count * (int(trips[1]) if trips else 1))

  visit(entry, 1)
  return found


def sizes(shape: str, *, off_chip: bool = False) -> list[int]:
  """Returns the bytes of a shape, or those of a tuple's arrays.

  With `off_chip`, what lies in a TPU's on-chip memory has none.
  """
  found = []
  for letters, bits, sides, layout in _SHAPE.findall(shape):
    width = 8 if letters == "pred" else int(bits or 0)
    if off_chip and "S(1)" in layout:
      width = 0
    elements = math.prod(int(n) for n in sides.split(",") if n)
    found.append(math.ceil(elements * width / 8))
  return found
