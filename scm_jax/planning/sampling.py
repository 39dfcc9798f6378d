"""Compiles a config's sampler for absent hardware and predicts its latency.

The program is the one that `Sampler.sample` runs: noise, all steps and decoding
on one device, with folded weights (`Sampler.ready`). An autoencoder is left
out.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from scm_jax import sampler_programs
from scm_jax.defaults import Run
from scm_jax.planning import compile as compiler
from scm_jax.planning import estimate, kernels, products, topology
from scm_jax.planning.targets import Card, Target
from scm_jax.sampler import Sampler
from scm_jax.training.benchmarks import sampling, train_step

# Seconds that a kernel takes at least, by platform: the time between two
# kernels of a CUDA graph; a TPU starts its next operation sooner.
LEAST = {"gpu": 2e-6, "tpu": 5e-7}
_WEIGHTS = "sampler"  # the name of the programs' argument that holds them


def plan(
  config: ConfigDict, target: Target, steps: int | None, batch: int
) -> dict[str, Any]:
  """Returns the object that `scm-jax plan --sample --json` prints.

  One device of the target draws a `batch` of images; None is the sampler's own
  number of steps. Bytes are those that one call moves between a device's memory
  and its cores (see `kernels`). Times are None where the target's rates are
  unknown.
  """
  request = {"steps": steps, "batch": batch}
  found = compiler.ask(config, target, sample=request)["sample"]
  card = target.card
  return {
    "target": target.name,
    **found,
    "device_bytes": card.memory,
    "fits": found["peak_bytes"] <= card.memory * card.usable,
    "floor_ms": _floor_ms(found, card),
    "predicted_ms": _predicted_ms(found, card),
  }


def compiled(
  run: Run, target: Target, *, steps: int | None, batch: int
) -> dict[str, Any]:
  """Compiles the sampler and returns its figures; for the worker process."""
  sampler, where = _abstract(run, target, batch)
  steps = sampler.steps if steps is None else steps
  guidance = sampler.guidance_scale()
  guided = sampler.extrapolates(guidance)
  spec = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=where)
  start = time.perf_counter()
  platform = topology.devices(target)[0].platform
  traced = sampler_programs.draw_from_seed.on(platform).trace(
    sampler,
    spec((), jnp.float32),
    spec((batch, 3), jnp.int32),
    steps=steps,
    guided=guided,
  )
  program = traced.lower().compile()
  seconds = time.perf_counter() - start
  memory: Any = program.memory_analysis()
  found = kernels.parse(program.as_text() or "", _WEIGHTS)
  least = products.cost(traced.jaxpr)
  network = run.network
  return {
    "config": train_step.describe(run),
    "kind": sampler.kind,
    "params": sampler.parameters,
    "steps": steps,
    "evaluations": sampler.evaluations(steps, guidance),
    "batch": batch,
    "dtype": jnp.dtype(network.dtype).name,
    "precision": network.precision,
    "parameter_bytes": sampling.parameter_bytes(sampler.params),
    "flops": least.flops,
    "least_bytes": least.bytes,
    **_figures(found),
    "argument_bytes": memory.argument_size_in_bytes,
    "temp_bytes": memory.temp_size_in_bytes,
    "peak_bytes": train_step.peak_bytes(memory),
    "compile_seconds": seconds,
  }


def _abstract(
  run: Run, target: Target, batch: int
) -> tuple[Sampler, NamedSharding]:
  """Returns a sampler of shapes alone, and where on the target they lie."""
  device = topology.devices(target)[0]
  where = NamedSharding(Mesh(np.asarray([device]), ("data",)), PartitionSpec())
  sampler = sampling.without_weights(run)
  network = sampler.network

  def folded():
    params = network.init(jax.random.key(0))
    if not network.fold:
      return params
    return network.fold(params, device.platform, batch)

  params = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
    jax.eval_shape(folded),
  )
  # A program finds out while it runs which steps are guided; all are planned.
  return dataclasses.replace(
    sampler, params=params, guidance_interval=()
  ), where


def _figures(found: list[kernels.Kernel]) -> dict[str, Any]:
  """Returns how many kernels there are of each kind, and their bytes."""
  library = [kernel for kernel in found if kernel.library]
  alone = [kernel for kernel in found if kernel.alone and kernel.written]
  return {
    "kernels": kernels.count(found),
    "library_calls": kernels.count(library),
    "fusions": kernels.count(k for k in found if k.opcode == "fusion"),
    "bytes_moved": kernels.moved(found),
    "library_bytes": kernels.moved(library),
    # Kernels that depend on weights alone do the same in every call.
    "weight_kernels": kernels.count(alone),
    "weight_kernel_bytes": sum(k.times * k.written for k in alone),
  }


def _floor_ms(found: dict[str, Any], card: Card) -> float | None:
  """Returns the time that arithmetic, or reading the weights, takes."""
  evaluations, batch = found["evaluations"], found["batch"]
  each = _weighted(found, card) / evaluations / batch
  return sampling.floor_ms(
    batch, evaluations, found["parameter_bytes"], each, estimate.rates(card)
  )


def _predicted_ms(found: dict[str, Any], card: Card) -> float | None:
  """Returns the time of a call if its kernels follow one another.

  A library's kernels reach `estimate.EFFICIENCY` of the peak or read and write
  at the memory's rate, whichever takes longer; all others read and write at
  that rate; and every kernel takes a least time.
  """
  if not card.flops:
    return None
  arithmetic = _weighted(found, card) / (card.flops * estimate.EFFICIENCY)
  # On a TPU the products are fusions, which are not told apart.
  products_bytes = found["library_bytes"] or found["bytes_moved"]
  rest = found["bytes_moved"] - products_bytes
  starts = LEAST[card.platform] * found["kernels"]
  moving = rest / card.bandwidth
  return 1e3 * (
    starts + moving + max(arithmetic, products_bytes / card.bandwidth)
  )


def _weighted(found: dict[str, Any], card: Card) -> float:
  """Returns how many bfloat16 FLOPs take as long as the program's."""
  return found["flops"] * card.cost(found["dtype"], found["precision"])
