"""Reads the kernels of a compiled program, and the bytes they move, from HLO.

Each instruction of the program that computes or copies is one kernel: a fusion,
a call of a library (cuDNN, cuBLAS), a copy. It reads its operands and writes
its results once. Of an operand that it only slices it reads the slices. What
lies in a TPU's on-chip memory moves no bytes. What is inside a loop counts once
for each iteration.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from scm_jax.planning import hlo
from scm_jax.planning.hlo import Instruction

_NUMBER = re.compile(r"(\d+)\)")
_ARGUMENT = re.compile(r'op_name="([^"]*)"')
_WORKSPACE = re.compile(r"[su]8\[\d+\]\{[^}]*\}\)$")
# They name or regroup arrays, or run other computations, which count.
_NO_KERNEL = {
  *hlo.CONTROL,
  *"parameter constant bitcast get-tuple-element tuple after-all".split(),
  *"partition-id replica-id opt-barrier".split(),
}
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


def parse(text: str, arguments: str) -> list[Kernel]:
  """Returns the kernels of a compiled module.

  Args:
    text: the module's HLO, from `compiled.as_text()`.
    arguments: the start of the names of the arguments whose kernels are told
      apart: those that depend on nothing else compute the same in every call.

  Raises:
    ValueError: the module has no entry computation.
  """
  bodies, entry = hlo.parse(text)
  return [
    kernel
    for name, count in hlo.times(bodies, entry, hlo.CONTROL).items()
    for kernel in _kernels(bodies[name], bodies, count, arguments)
  ]


def moved(kernels: Iterable[Kernel]) -> int:
  """Returns the bytes that kernels read and write in one call."""
  return sum(kernel.bytes for kernel in kernels)


def count(kernels: Iterable[Kernel]) -> int:
  """Returns how many kernels one call starts."""
  return sum(kernel.times for kernel in kernels)


def _kernels(
  body: list[Instruction],
  bodies: hlo.Bodies,
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
    if i.opcode in _NO_KERNEL or i.is_end:
      continue
    read, written = _traffic(i, sizes, bodies)
    yield Kernel(i.opcode, i.library, times, read, written, chosen)


def _traffic(
  i: Instruction,
  sizes: Mapping[str, int],
  bodies: hlo.Bodies,
) -> tuple[int, int]:
  """Returns the bytes that an instruction reads and writes."""
  whole = [sizes.get(name, 0) for name in dict.fromkeys(i.operands)]
  if i.opcode == "copy-start":  # its shape is (result, operand, context)
    return whole[0], _bytes(i.shape.split(", ")[0])
  if i.opcode == "custom-call":
    # A library's workspace is not counted: its size depends on the algorithm.
    results = i.shape
    if i.library and results.startswith("("):
      results = _WORKSPACE.sub("", results)
    return sum(whole), _bytes(results)
  if i.opcode in _SLICES:
    return sizes[i.name], sizes[i.name]
  if i.opcode != "fusion":
    return sum(whole), sizes[i.name]
  inside = bodies[i.called[0]]
  read = 0
  for parameter in (p for p in inside if p.opcode == "parameter"):
    number = _NUMBER.match(parameter.rest)
    size = _read(parameter, inside)
    # A parameter of a fusion on a TPU does not say where its operand lies.
    given = sizes.get(i.operands[int(number[1])], 0) if number else 0
    read += min(size, given)
  return read, _written(inside, sizes[i.name])


def _read(array: Instruction, inside: list[Instruction]) -> int:
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


def _written(inside: list[Instruction], size: int) -> int:
  """Returns how many bytes a fusion writes whose result has this size."""
  root = next(i for i in inside if i.root)
  by_name = {i.name: i for i in inside}
  if root.opcode == "dynamic-update-slice":
    return _bytes(by_name[root.operands[1]].shape)
  return size


def _bytes(shape: str) -> int:
  """Returns the bytes of a shape, or a tuple's, that lie in main memory."""
  return sum(hlo.sizes(shape, off_chip=True))
