"""What a config costs: FLOPs by XLA's count, and times on the devices here.

Weights and data are random; neither a workdir nor a dataset is needed.
"""

import copy
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scm_jax import networks
from scm_jax.training import program, resolve, sharding
from scm_jax.training.benchmarks import sampling
from scm_jax.training.step import init_state

OBJECTIVES = {"diffusion": "teacher", "sct": "sct", "scd": "scd"}


def run_config(config: Any, run: str) -> Any:
  """The config as another of the three runs."""
  config = copy.deepcopy(config)
  config.run = run
  return config


def train_step(config: Any, mesh: Mesh) -> tuple[Any, tuple]:
  """The jitted train step of a config and (abstract) arguments for it."""
  made = program.make(config, mesh)
  return made.step, made.arguments


def describe(config: Any) -> str:
  """The config in a few words."""
  return f"run={config.run}, batch_size={config.batch_size}"


def flops(lowered: Any) -> float:
  """XLA's count for one call, after its optimisations on this backend."""
  analysis = lowered.compile().cost_analysis() or {}
  return float(analysis.get("flops", float("nan")))


def lower_forward(config: Any) -> Any:
  """One forward pass over the config's batch, lowered."""
  network = networks.build(resolve.network_config(config))
  params = jax.eval_shape(network.init, jax.random.key(0))
  batch, side = config.batch_size, config.data.size
  x = jax.ShapeDtypeStruct(
    (batch, side, side, config.data.channels), jnp.float32
  )
  t = jax.ShapeDtypeStruct((batch,), jnp.float32)
  cond = jax.eval_shape(lambda: networks.null_cond(network.config, batch))
  return jax.jit(network.F).lower(params, x, t, cond)


def flops_in_forwards(config: Any) -> dict[str, float]:
  """FLOPs of each objective's train step, in forward passes.

  Guidance, which is not part of the objective, is left out.
  """
  config = copy.deepcopy(config)
  config.objective.guidance = "none"
  config.mesh.update(data=1, fsdp=1)
  config.microbatches = 1  # XLA counts a loop's body once
  mesh = sharding.make_mesh(config, jax.devices()[:1])
  forward = flops(lower_forward(config))

  def step_flops(run: str) -> float:
    step, arguments = train_step(run_config(config, run), mesh)
    return flops(step.lower(*arguments))

  return {name: step_flops(run) / forward for name, run in OBJECTIVES.items()}


def materialize(abstract: Any) -> Any:
  """Small random arrays like `abstract`, where its shardings say."""
  leaves, tree = jax.tree.flatten(abstract)

  def filled():
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return [
      jax.random.normal(key, leaf.shape, leaf.dtype)
      if jnp.issubdtype(leaf.dtype, jnp.floating)
      else jnp.zeros(leaf.shape, leaf.dtype)
      for leaf, key in zip(leaves, keys, strict=True)
    ]

  where = [leaf.sharding for leaf in leaves]
  return jax.tree.unflatten(tree, jax.jit(filled, out_shardings=where)())


def time_step(config: Any, repeats: int) -> dict[str, Any]:
  """Step times in milliseconds, FLOPs and memory of the config's own step."""
  mesh = sharding.make_mesh(config)
  function, arguments = train_step(config, mesh)
  compiled = function.lower(*arguments).compile()
  state, *others = arguments
  network = networks.build(resolve.network_config(config))
  where = jax.tree.map(lambda leaf: leaf.sharding, state)
  state = jax.jit(lambda: init_state(config, network), out_shardings=where)()
  others = [materialize(other) for other in others]
  seconds = []
  for i in range(repeats + 1):
    start = time.perf_counter()
    state, metrics = compiled(state, *others)
    jax.block_until_ready((state, metrics))
    if i:  # the first call warms up
      seconds.append(time.perf_counter() - start)
  parts = sharding.microbatches(config, mesh.size)
  memory = compiled.memory_analysis()
  analysis = compiled.cost_analysis() or {}
  return {
    "ms": 1e3 * np.asarray(seconds),
    # Of one device; XLA counts the loop over microbatches as one of them.
    "flops": analysis.get("flops") if parts == 1 else None,
    "peak_bytes": memory and peak_bytes(memory),
    "params": networks.parameter_count(state.params),
  }


def peak_bytes(memory: Any) -> int:
  """Bytes on a device: arguments, results and temporaries, aliases once."""
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )


def measure(
  config: Any,
  repeats: int = 10,
  rates: sampling.Rates | None = None,
  sample_batch: int = 64,
) -> dict[str, Any]:
  """The object that `bench --json` prints; null is what was not measured.

  Args:
    config: of the run.
    repeats: timed calls of each kind.
    rates: of each device here; None if they are not known.
    sample_batch: images at once, for the throughput of samplers.
  """
  step = time_step(config, repeats)
  kind = jax.devices()[0].device_kind
  devices = jax.device_count()
  median = float(np.median(step["ms"]))
  flops_step = step["flops"] and step["flops"] * devices
  mfu = None
  if rates and step["flops"]:
    mfu = step["flops"] / (median / 1e3) / rates.flops
  forward = flops(lower_forward(config))
  sample_ms, samplers = sampling.measure(
    config, forward / config.batch_size, rates, repeats, sample_batch
  )
  return {
    "device": kind,
    "devices": devices,
    "config": describe(config),
    "params": step["params"],
    "flops": {"forward": forward, "step": flops_step},
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
