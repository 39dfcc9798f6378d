"""Measures what a train step costs: FLOPs by XLA's count, times, memory.

Weights and data are random; neither a workdir nor a dataset is needed.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from scm_jax import networks
from scm_jax.defaults import Mesh, Run, get_defaults
from scm_jax.errors import ConfigError
from scm_jax.objectives import OBJECTIVES
from scm_jax.training import program, resolve, sharding
from scm_jax.training.benchmarks import sampling

if TYPE_CHECKING:
  from ml_collections import ConfigDict

# The keys in `flops_in_forwards` of objectives that have another name there.
REPORTED_AS = {"teacher": "diffusion"}


def measure(
  config: "ConfigDict",
  repeats: int,
  rates: sampling.Rates | None,
  sample_batch: int,
) -> dict[str, Any]:
  """Returns the object that `bench --json` prints; null was not measured.

  `repeats` calls of each kind are timed. `rates` is what each device here does
  in a second, if that is known; `sample_batch` the number of images drawn at
  once for the throughput of samplers. FLOPs are of the whole batch, as counted
  by `arithmetic`.
  """
  run = resolve.resolve(config)
  step = time_step(run, repeats)
  devices = jax.device_count()
  p10, median, p90 = np.percentile(step["ms"], (10, 50, 90)).tolist()
  forward = forward_arithmetic(run)
  sample_ms, samplers = sampling.measure(
    config, forward / config.batch_size, rates, repeats, sample_batch
  )
  hardware, model = arithmetic(run)
  peak = devices * (median / 1e3) * (rates.flops if rates else math.nan)
  return {
    "device": jax.devices()[0].device_kind,
    "devices": devices,
    "config": describe(run),
    "params": step["params"],
    "flops": {"forward": forward, "step": hardware},
    "flops_in_forwards": flops_in_forwards(config),
    "step_ms": {"median": median, "p10": p10, "p90": p90},
    "sample_ms": sample_ms,
    "sampling": samplers,
    "images_per_second": config.batch_size / (median / 1e3),
    "peak_bytes": step["peak_bytes"],
    "mfu": rates and model / peak,
    "hfu": rates and hardware / peak,
  }


def count(config: "ConfigDict", compiled: bool = False) -> dict[str, Any]:
  """Returns the object that `bench --abstract --json` prints.

  The step is lowered on abstract arrays; no memory for weights, no accelerator
  and no teacher are needed. FLOPs are XLA's count before its optimisations, for
  the whole batch, and include what rematerialisation repeats. Bytes are those
  of a single device that holds all arrays. If it is compiled, too, for this
  machine's backend, the peak of memory is known.
  """
  run = _on_one_device(resolve.check(config))
  made = _made(run, counter())
  hardware = _step_flops(run)
  memory = None
  if compiled:
    here = _made(run, jax.devices()[0])
    memory = here.step.lower(*here.arguments).compile().memory_analysis()
  held = {"state": made.state, "teacher": made.teacher, "batch": made.batch}
  return {
    "config": describe(run),
    "params": networks.parameter_count(made.state.params),
    "teacher_params": made.teacher and networks.parameter_count(made.teacher),
    "flops": {"forward": forward_arithmetic(run), "step": hardware},
    "argument_bytes": {
      name: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
      for name, tree in held.items()
    },
    "peak_bytes": memory and peak_bytes(memory),
  }


def arithmetic(config: Run) -> tuple[float, float]:
  """Returns a step's FLOPs of the whole batch, with recomputation and without.

  They are XLA's count before its optimisations, which needs no device and does
  not depend on the kernels that a device's libraries choose.
  """
  hardware = _step_flops(config)
  if config.network.remat == "none":
    return hardware, hardware
  network = dataclasses.replace(config.network, remat="none")
  return hardware, _step_flops(dataclasses.replace(config, network=network))


def _step_flops(config: Run) -> float:
  """Returns the FLOPs of a step, for the whole batch."""
  made = _made(_on_one_device(_with_whole_attention(config)), counter())
  return flops(made.step.lower(*made.arguments)) + _uncounted(config)


def _uncounted(config: Run) -> float:
  """Returns the FLOPs of the loop along a teacher's path beyond its first turn.

  XLA counts the body of a loop once, and so one evaluation of the teacher.
  """
  turns = config.spec.path_states(config.objective)
  if turns == 1:
    return 0.0
  network = program.teacher_network(config).config
  evaluations = config.objective.teacher_evaluations
  each = forward_arithmetic(dataclasses.replace(config, network=network))
  return (turns - 1) * evaluations * each


def forward_arithmetic(config: Run) -> float:
  """Returns the FLOPs of one forward pass over the batch, as `arithmetic`."""
  config = _with_whole_attention(config)
  F = networks.build(config.network).F
  arguments = forward_arguments(config, config.batch_size)
  with jax.default_device(counter()):
    return flops(jax.jit(F).lower(*arguments))


def counter() -> jax.Device:
  """Returns the device whose client counts: accelerators' plugins need not."""
  try:
    return jax.devices("cpu")[0]
  except RuntimeError:  # the CPU is not among the platforms that the user chose
    return jax.devices()[0]


def _made(config: Run, device: jax.Device) -> program.Program:
  return program.make(config, sharding.make_mesh(config, [device]))


def _with_whole_attention(config: Run) -> Run:
  """Returns the config without chunks, whose loop XLA counts as one chunk.

  What chunks compute again in the backward pass is not counted so.
  """
  network = dataclasses.replace(config.network, attention="einsum")
  return dataclasses.replace(config, network=network)


def describe(config: Run) -> str:
  """Returns the config's line in reports."""
  return f"run={config.run}, batch_size={config.batch_size}"


def _on_one_device(config: Run) -> Run:
  """Returns the config without microbatches, whose loop XLA counts as one."""
  return dataclasses.replace(config, mesh=Mesh(data=1, fsdp=1), microbatches=1)


def forward_arguments(config: Run, batch: int) -> tuple[Any, ...]:
  """Returns the arguments of the network's `F`, as shapes and types."""
  network, data = networks.build(config.network), config.data
  shape = (batch, data.size, data.size, data.channels)
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  t = jax.ShapeDtypeStruct((batch,), jnp.float32)
  cond = jax.eval_shape(lambda: networks.null_cond(network.config, batch))
  return network.shapes, x, t, cond


def flops(program: jax.stages.Lowered | jax.stages.Compiled) -> float:
  """Returns XLA's count for one call."""
  return float((program.cost_analysis() or {}).get("flops", float("nan")))


def flops_in_forwards(config: "ConfigDict") -> dict[str, float]:
  """Returns the FLOPs of each objective's train step, in forward passes.

  Guidance, which is not part of the objective, is left out. An objective that
  cannot have the config's options is counted with its own.
  """
  own = config.run

  def resolved(objective: str) -> Run:
    given = copy.deepcopy(config)
    ours, theirs = (get_defaults(name).objective for name in (own, objective))
    for field, default in theirs.items():
      if default != ours[field]:
        given.objective[field] = default
    given.run, given.objective.guidance, given.guide = objective, "none", ""
    try:
      return resolve.resolve(given)
    except ConfigError:
      if objective == own:
        raise
      given.objective.update(theirs)
      return resolve.resolve(given)

  forward = forward_arithmetic(resolved(own))
  return {
    REPORTED_AS.get(name, name): _step_flops(resolved(name)) / forward
    for name in OBJECTIVES
  }


def time_step(
  config: Run, repeats: int, devices: Sequence[Any] | None = None
) -> dict[str, Any]:
  """Measures the config's own train step, on all devices here unless named.

  It returns `ms`, the milliseconds of each call; `peak_bytes` of one device;
  and `params`, the number of parameters.
  """
  mesh = sharding.make_mesh(config, devices)
  made = program.make(config, mesh)
  compiled = made.step.lower(*made.arguments).compile()
  state = program.first_state(config, made.state)
  others = [sampling.random_like(tree) for tree in made.arguments[1:]]
  seconds = []
  for _ in range(repeats + 1):
    start = time.perf_counter()
    state, metrics = compiled(state, *others)
    jax.block_until_ready((state, metrics))
    seconds.append(time.perf_counter() - start)
  memory = compiled.memory_analysis()
  return {
    "ms": 1e3 * np.asarray(seconds[1:]),  # the first call warms up
    "peak_bytes": memory and peak_bytes(memory),
    "params": networks.parameter_count(state.params),
  }


def peak_bytes(memory: Any) -> int:
  """Returns a device's bytes by XLA's analysis, aliases counted once."""
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )
