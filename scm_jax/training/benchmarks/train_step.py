"""Measures what a train step costs: FLOPs by XLA's count, times, memory.

Weights and data are random; neither a workdir nor a dataset is needed.
"""

import copy
import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from scm_jax import networks
from scm_jax.defaults import Mesh, Run
from scm_jax.objectives import OBJECTIVES
from scm_jax.training import program, resolve, sharding
from scm_jax.training.benchmarks import sampling
from scm_jax.training.step import init_state

if TYPE_CHECKING:
  from ml_collections import ConfigDict

# The keys in `flops_in_forwards` of objectives that have another name there.
REPORTED_AS = {"teacher": "diffusion"}


def measure(
  config: "ConfigDict",
  repeats: int = 10,
  rates: sampling.Rates | None = None,
  sample_batch: int = 64,
) -> dict[str, Any]:
  """Returns the object that `bench --json` prints; null was not measured.

  Args:
    config: the run's config.
    repeats: the number of timed calls of each kind.
    rates: what each device here does in a second; None if that is not known.
    sample_batch: the number of images drawn at once, for the throughput of
      samplers.
  """
  run = resolve.resolve(config)
  step = time_step(run, repeats)
  devices = jax.device_count()
  median = float(np.median(step["ms"]))
  forward = compiled_flops(lower_forward(run))
  sample_ms, samplers = sampling.measure(
    config, forward / config.batch_size, rates, repeats, sample_batch
  )
  mfu = None
  if rates and step["flops"]:
    mfu = step["flops"] / (median / 1e3) / rates.flops
  return {
    "device": jax.devices()[0].device_kind,
    "devices": devices,
    "config": describe(run),
    "params": step["params"],
    "flops": {
      "forward": forward,
      "step": step["flops"] and step["flops"] * devices,
    },
    "flops_in_forwards": flops_in_forwards(config),
    "step_ms": {
      "median": median,
      "p10": float(np.percentile(step["ms"], 10)),
      "p90": float(np.percentile(step["ms"], 90)),
    },
    "sample_ms": sample_ms,
    "sampling": samplers,
    "images_per_second": config.batch_size / (median / 1e3),
    "peak_bytes": step["peak_bytes"],
    "mfu": mfu,
  }


def describe(config: Run) -> str:
  """Returns the config's line in reports."""
  return f"run={config.run}, batch_size={config.batch_size}"


def on_one_device(config: Run) -> Run:
  """Returns the config for one device, without microbatches.

  XLA counts the body of the loop over microbatches once.
  """
  return dataclasses.replace(config, mesh=Mesh(data=1, fsdp=1), microbatches=1)


def lower_forward(config: Run) -> jax.stages.Lowered:
  """Returns one forward pass over the config's batch, lowered."""
  network = networks.build(config.network)
  params = jax.eval_shape(network.init, jax.random.key(0))
  batch, side = config.batch_size, config.data.size
  x = jax.ShapeDtypeStruct(
    (batch, side, side, config.data.channels), jnp.float32
  )
  t = jax.ShapeDtypeStruct((batch,), jnp.float32)
  cond = jax.eval_shape(lambda: networks.null_cond(network.config, batch))
  return jax.jit(network.F).lower(params, x, t, cond)


def compiled_flops(lowered: jax.stages.Lowered) -> float:
  """Returns XLA's count for one call, after its optimisations."""
  analysis = lowered.compile().cost_analysis() or {}
  return float(analysis.get("flops", float("nan")))


def flops_in_forwards(config: "ConfigDict") -> dict[str, float]:
  """Returns the FLOPs of each objective's train step, in forward passes.

  Guidance, which is not part of the objective, is left out.
  """
  config = copy.deepcopy(config)
  config.objective.guidance = "none"

  def resolved(objective: str) -> Run:
    config.run = objective
    return on_one_device(resolve.resolve(config))

  def step_flops(run: Run) -> float:
    made = program.make(run, sharding.make_mesh(run, jax.devices()[:1]))
    return compiled_flops(made.step.lower(*made.arguments))

  forward = compiled_flops(lower_forward(resolved(config.run)))
  return {
    REPORTED_AS.get(name, name): step_flops(resolved(name)) / forward
    for name in OBJECTIVES
  }


def time_step(
  config: Run, repeats: int, devices: Sequence[Any] | None = None
) -> dict[str, Any]:
  """Measures the config's own train step on the devices here.

  Args:
    config: the run's config.
    repeats: the number of timed steps.
    devices: the devices to use; None is all.

  Returns:
    `ms`, the milliseconds of each call; `flops` of one device, None where there
    are microbatches, whose loop XLA counts as one; `peak_bytes` of one device;
    and `params`, the number of parameters.
  """
  mesh = sharding.make_mesh(config, devices)
  made = program.make(config, mesh)
  compiled = made.step.lower(*made.arguments).compile()
  where = jax.tree.map(lambda leaf: leaf.sharding, made.state)
  state = jax.jit(lambda: init_state(config), out_shardings=where)()
  others = [random_like(tree) for tree in made.arguments[1:]]
  seconds = []
  for _ in range(repeats + 1):
    start = time.perf_counter()
    state, metrics = compiled(state, *others)
    jax.block_until_ready((state, metrics))
    seconds.append(time.perf_counter() - start)
  parts = sharding.microbatches(config, mesh.size)
  memory = compiled.memory_analysis()
  analysis = compiled.cost_analysis() or {}
  return {
    "ms": 1e3 * np.asarray(seconds[1:]),  # the first call warms up
    "flops": analysis.get("flops") if parts == 1 else None,
    "peak_bytes": memory and peak_bytes(memory),
    "params": networks.parameter_count(state.params),
  }


def random_like(abstract: Any) -> Any:
  """Returns random arrays of the shapes, types and shardings of a tree."""
  leaves, tree = jax.tree.flatten(abstract)

  def draw():
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return [
      jax.random.normal(key, leaf.shape, leaf.dtype)
      if jnp.issubdtype(leaf.dtype, jnp.floating)
      else jnp.zeros(leaf.shape, leaf.dtype)
      for leaf, key in zip(leaves, keys, strict=True)
    ]

  where = [leaf.sharding for leaf in leaves]
  return jax.tree.unflatten(tree, jax.jit(draw, out_shardings=where)())


def peak_bytes(memory: Any) -> int:
  """Returns a device's bytes: arguments, results, temporaries, aliases once.

  Args:
    memory: XLA's analysis of a compiled program.
  """
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )
