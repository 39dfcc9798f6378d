"""Reads the kernels of a compiled program, and the bytes they move, from HLO.

Each instruction of the program that computes or copies is one kernel: a fusion,
a call of a library (cuDNN, cuBLAS), a copy. It reads its operands and writes
its results once. Of an operand that it only slices it reads the slices. What
lies in a TPU's on-chip memory moves no bytes. What is inside a loop counts once
for each iteration.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from scm_jax.planning import collectives

_INSTRUCTION = re.compile(
  r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z\d\-]*)\((.*)$"
)
_SHAPE = re.compile(r"\b(pred|[a-z]+)(\d*)\w*\[([\d,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_NUMBER = re.compile(r"(\d+)\)")
_ARGUMENT = re.compile(r'op_name="([^"]*)"')
_LIBRARY = re.compile(r'custom_call_target="(__(?:cu|onednn)[^"]*)"')
_WORKSPACE = re.compile(r"[su]8\[\d+\]\{[^}]*\}\)$")
# They name or regroup arrays, or run other computations, which count.
_NO_KERNEL = frozenset(
  "parameter constant bitcast get-tuple-element tuple after-all partition-id "
  "replica-id while conditional call async-start opt-barrier".split()
)
_CONTROL = ("while", "call", "conditional", "async-start")
_CALLED = re.compile(
  r"\b(?:to_apply|body|condition|calls|true_computation|"
  r"false_computation|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SLICES = ("slice", "dynamic-slice", "gather")


class Kernel(NamedTuple):
  """A kernel of a compiled program.

  Attributes:
    opcode: HLO's name of the instruction.
    library: the library's function that it calls, or "".
    times: how often the program runs it.
    read: how many bytes it reads each time.
    written: how many bytes it writes each time.
    alone: whether it depends on the given arguments alone (see `parse`).
  """

  opcode: str
  library: str
  times: int
  read: int
  written: int
  alone: bool

  @property
  def bytes(self) -> int:
    """The bytes that the kernel moves in all its runs."""
    return self.times * (self.read + self.written)


class _Instruction(NamedTuple):
  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  rest: str
  root: bool


def parse(text: str, arguments: str) -> list[Kernel]:
  """Returns the kernels of a compiled module.

  Args:
    text: the module's HLO, from `compiled.as_text()`.
    arguments: the start of the names of the arguments whose kernels are told
      apart: those that depend on nothing else compute the same in every call.

  Raises:
    ValueError: the module has no entry computation.
  """
  lines, entry = collectives.computations(text)
  bodies = {
    name: [found for line in body if (found := _instruction(line))]
    for name, body in lines.items()
  }
  times: dict[str, int] = defaultdict(int)

  def visit(name: str, count: int) -> None:
    times[name] += count
    for instruction in bodies[name]:
      if instruction.opcode in _CONTROL:
        trips = _TRIPS.search(instruction.rest)
        for called in _called(instruction):
          visit(called, count * (int(trips[1]) if trips else 1))

  visit(entry, 1)
  return [
    kernel
    for name, count in times.items()
    for kernel in _kernels(bodies[name], bodies, count, arguments)
  ]


def moved(kernels: Iterable[Kernel]) -> int:
  """Returns the bytes that kernels read and write in one call."""
  return sum(kernel.bytes for kernel in kernels)


def count(kernels: Iterable[Kernel]) -> int:
  """Returns how many kernels one call starts."""
  return sum(kernel.times for kernel in kernels)


def _instruction(line: str) -> _Instruction | None:
  found = _INSTRUCTION.match(line)
  if not found:
    return None
  root, name, shape, opcode, rest = found.groups()
  inside = rest[: rest.index(")")] if opcode != "constant" else ""
  operands = tuple(dict.fromkeys(_NAME.findall(inside)))
  return _Instruction(name, shape, opcode, operands, rest, bool(root))


def _called(i: _Instruction) -> list[str]:
  """Returns the computations that an instruction runs."""
  return [
    name
    for names in _CALLED.findall(i.rest)
    for name in re.findall(r"[\w.\-]+", names)
  ]


def _kernels(
  body: list[_Instruction],
  computations: Mapping[str, list[_Instruction]],
  times: int,
  arguments: str,
) -> Iterator[Kernel]:
  """Yields the kernels of one computation."""
  sizes = {i.name: _bytes(i.shape) for i in body}
  alone: set[str] = set()
  for i in body:
    if i.opcode == "parameter":
      named = _ARGUMENT.search(i.rest)
      chosen = bool(named and named[1].startswith(arguments))
    else:
      chosen = bool(i.operands) and alone.issuperset(i.operands)
    if chosen:
      alone.add(i.name)
    # The end of an asynchronous kernel moves nothing more than its start.
    if i.opcode in _NO_KERNEL or i.opcode.endswith(("-done", "-update")):
      continue
    library = _LIBRARY.search(i.rest) if i.opcode == "custom-call" else None
    read, written = _traffic(i, sizes, computations)
    yield Kernel(
      i.opcode, library[1] if library else "", times, read, written, chosen
    )


def _traffic(
  i: _Instruction,
  sizes: Mapping[str, int],
  computations: Mapping[str, list[_Instruction]],
) -> tuple[int, int]:
  """Returns the bytes that an instruction reads and writes."""
  whole = [sizes.get(name, 0) for name in i.operands]
  if i.opcode == "copy-start":  # its shape is (result, operand, context)
    return whole[0], _bytes(i.shape.split(", ")[0])
  if i.opcode == "custom-call":
    # A library's workspace is not counted: its size depends on the algorithm.
    results = i.shape
    if _LIBRARY.search(i.rest) and results.startswith("("):
      results = _WORKSPACE.sub("", results)
    return sum(whole), _bytes(results)
  if i.opcode in _SLICES:
    return sizes[i.name], sizes[i.name]
  if i.opcode != "fusion":
    return sum(whole), sizes[i.name]
  inside = computations[_called(i)[0]]
  read = 0
  for parameter in (p for p in inside if p.opcode == "parameter"):
    number = _NUMBER.match(parameter.rest)
    size = _read(parameter, inside)
    # A parameter of a fusion on a TPU does not say where its operand lies.
    names = _all_operands(i)
    given = sizes.get(names[int(number[1])], 0) if number else 0
    read += min(size, given)
  return read, _written(inside, sizes[i.name])


def _all_operands(i: _Instruction) -> list[str]:
  """Returns the operands' names in order, repeated ones too."""
  return _NAME.findall(i.rest[: i.rest.index(")")])


def _read(array: _Instruction, inside: list[_Instruction]) -> int:
  """Returns how many bytes of an array the instructions of a fusion read."""
  users = [i for i in inside if array.name in i.operands]
  total = 0
  for user in users:
    if user.opcode in _SLICES:
      total += _bytes(user.shape)
    elif user.opcode == "bitcast":
      total += _read(user, inside)
    elif (
      user.opcode == "dynamic-update-slice" and user.operands[0] == array.name
    ):
      continue  # it is changed in place
    else:
      return _bytes(array.shape)
  return min(total, _bytes(array.shape))


def _written(inside: list[_Instruction], size: int) -> int:
  """Returns how many bytes a fusion writes whose result has this size."""
  root = next(i for i in inside if i.root)
  by_name = {i.name: i for i in inside}
  if root.opcode == "dynamic-update-slice":
    return _bytes(by_name[root.operands[1]].shape)
  return size


def _bytes(shape: str) -> int:
  """Returns the bytes of a shape, or a tuple's, that lie in main memory."""
  return sum(
    collectives.array_bytes(*found.groups()[:3])
    for found in _SHAPE.finditer(shape)
    if "S(1)" not in (found[4] or "")  # a TPU's on-chip memory
  )
