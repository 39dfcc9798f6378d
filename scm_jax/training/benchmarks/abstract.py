"""Counts what a config costs, from shapes and types alone.

No memory for weights, no accelerator and no teacher are needed: the train step
is lowered on abstract arrays, and compiled only on request.
"""

from typing import TYPE_CHECKING, Any

import jax

from scm_jax import networks
from scm_jax.training import program, resolve, sharding
from scm_jax.training.benchmarks import train_step

if TYPE_CHECKING:
  from ml_collections import ConfigDict


def measure(config: "ConfigDict", compiled: bool = False) -> dict[str, Any]:
  """Returns the object that `bench --abstract --json` prints.

  FLOPs are XLA's count before its optimisations, for the whole batch, and
  include what rematerialisation repeats. Bytes are those of a single device
  that holds all arrays.

  Args:
    config: the run's config.
    compiled: whether to compile for this machine's backend as well, which gives
      the peak of memory.
  """
  run = train_step.on_one_device(resolve.check(config))
  mesh = sharding.make_mesh(run, jax.devices()[:1])
  made = program.make(run, mesh)
  step = made.step.lower(*made.arguments)
  forward = train_step.lower_forward(run)
  teacher = made.teacher and networks.parameter_count(made.teacher)
  return {
    "config": train_step.describe(run),
    "params": networks.parameter_count(made.state.params),
    "teacher_params": teacher,
    "flops": {"forward": _flops(forward), "step": _flops(step)},
    "argument_bytes": {
      "state": _bytes(made.state),
      "teacher": _bytes(made.teacher),
      "batch": _bytes(made.batch),
    },
    "peak_bytes": _peak(step) if compiled else None,
  }


def _flops(lowered: jax.stages.Lowered) -> float:
  return float((lowered.cost_analysis() or {}).get("flops", float("nan")))


def _bytes(tree: Any) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _peak(lowered: jax.stages.Lowered) -> int | None:
  memory = lowered.compile().memory_analysis()
  return memory and train_step.peak_bytes(memory)
