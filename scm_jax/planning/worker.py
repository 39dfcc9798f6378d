"""Compiles for other hardware, in a process of its own.

    python -m scm_jax.planning.worker < request.json

JAX chooses its compiler and devices when it starts, and a compiler may end its
process. The request is one JSON object (see `answer`), and the last line on
standard output is the answer. A user's mistake gives
`{"error": TEXT, "exit_code": N}`.
"""

import dataclasses
import functools
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import jax

from scm_jax import configuration, networks, plugins
from scm_jax.defaults import Run
from scm_jax.errors import UserError
from scm_jax.planning import (
  arithmetic,
  collectives,
  estimate,
  sampling,
  targets,
  topology,
)
from scm_jax.planning.targets import Target
from scm_jax.training import program, resolve, sharding
from scm_jax.training.benchmarks import train_step

_OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def answer(request: dict[str, Any]) -> dict[str, Any]:
  """Returns the answer to a request.

  Args:
    request: has `config` (JSON text) and `target`, and any of
      `compile`: true to answer `compiled`, the compiled train step's figures;
      `flops`: true to answer `flops`, those of one step, by pass;
      `meshes`: pairs of sizes (data, fsdp), to answer `arithmetic` for each;
      `sample`: the arguments of `sampling.compiled`, to answer `sample` alone.
  """
  config = configuration.from_json(request["config"])
  target = targets.parse(request["target"])
  run = resolve.check(config)
  if "sample" in request:
    found = sampling.compiled(run, target, **request["sample"])
    return {"sample": found}
  result: dict[str, Any] = {}
  arithmetic_on = functools.partial(
    _arithmetic, run, target, arithmetic.trace(run)
  )
  mesh = None
  if request.get("compile"):  # first, because the batch may not divide
    mesh = sharding.make_mesh(run, topology.devices(target))
  if meshes := request.get("meshes"):
    result["arithmetic"] = [
      arithmetic_on(sharding.abstract_mesh(*sizes)) for sizes in meshes
    ]
  if request.get("flops"):
    result["flops"] = train_step.count(config)["flops"]
  if mesh:
    least, fsdp = arithmetic_on(mesh), mesh.shape[sharding.FSDP]
    result["compiled"] = {
      "mesh": dict(mesh.shape),
      "resident": least["resident"],
      "minimum": least["traffic"],
      "scaling": [
        arithmetic_on(sharding.abstract_mesh(*estimate.mesh_at(n, fsdp)))
        for n in estimate.DEVICES
      ],
    } | _compiled(run, target, mesh)
  return result


def _arithmetic(
  config: Run, target: Target, shapes: arithmetic.Shapes, mesh: Any
) -> dict[str, Any]:
  """Returns what a step holds and sends on a mesh, without compiling it.

  Each device has as many samples as on the target.
  """
  batch_size = config.batch_size // target.devices * mesh.size
  config = dataclasses.replace(config, batch_size=batch_size)
  given = arithmetic.arguments(config, mesh, shapes)
  minimum = arithmetic.minimum(config, given, target.domain)
  return {
    "resident": arithmetic.resident(given),
    "traffic": [traffic._asdict() for traffic in minimum],
  }


def _compiled(config: Run, target: Target, mesh: Any) -> dict[str, Any]:
  """Compiles the train step and returns its figures.

  A compiler that runs out of memory reports the peak alone.
  """
  made = program.make(config, mesh)
  found: dict[str, Any] = {
    "params": networks.parameter_count(made.state.params)
  }
  start = time.perf_counter()
  lowered = made.step.lower(*made.arguments)
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    used = _OUT_OF_MEMORY.search(str(error))
    if not used:
      raise
    found["peak_bytes"] = round(float(used[1]) * _UNITS[used[2]])
    return found | {"compile_seconds": time.perf_counter() - start}
  found["compile_seconds"] = time.perf_counter() - start
  memory: Any = compiled.memory_analysis()
  sent = collectives.parse(compiled.as_text() or "", target.devices)
  return found | {
    "peak_bytes": train_step.peak_bytes(memory),
    "argument_bytes": memory.argument_size_in_bytes,
    "temp_bytes": memory.temp_size_in_bytes,
    "aliased_bytes": memory.alias_size_in_bytes,
    "collectives": collectives.counts(sent),
    "overlapped": _total(c for c in sent if c.meanwhile),
    "beside_products": _total(
      c for c in sent if c.meanwhile == collectives.PRODUCT
    ),
    "traffic": _traffic(sent, target.domain),
  }


def _total(sent: Iterable[collectives.Collective]) -> int:
  return round(sum(c.times * c.bytes for c in sent))


def _traffic(
  sent: list[collectives.Collective], domain: int
) -> list[dict[str, Any]]:
  """Returns the traffic of each kind of collective and size of group."""
  sums: dict[tuple, float] = defaultdict(float)
  for c in sent:
    local = sum(x // domain == c.group[0] // domain for x in c.group)
    sums[c.kind, len(c.group), local] += c.times * c.bytes
  return [
    estimate.Traffic(kind, total, size, local)._asdict()
    for (kind, size, local), total in sums.items()
  ]


def main() -> None:
  """Answers the request on standard input."""
  try:
    plugins.load()
    result = answer(json.load(sys.stdin))
  except UserError as error:
    result = {"error": str(error), "exit_code": error.exit_code}
  print(json.dumps(result), flush=True)


if __name__ == "__main__":
  main()
