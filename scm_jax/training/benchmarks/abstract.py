"""What a config costs, from shapes and types alone.

No memory for weights, no device of any kind and no teacher are needed: the
train step is lowered on abstract arrays, and compiled if asked.
"""

import copy
from typing import Any

import jax

from scm_jax import networks
from scm_jax.training import resolve, sharding
from scm_jax.training.benchmarks import train_step


def measure(config: Any, compiled: bool = False) -> dict[str, Any]:
  """The object that `bench --abstract --json` prints.

  FLOPs are XLA's count before its optimisations, of the whole batch, with what
  rematerialisation repeats. Bytes are those of one device that holds all.

  Args:
    config: of the run.
    compiled: also compile for this machine's backend, for the peak of memory.
  """
  config = _on_one_device(config)
  mesh = sharding.make_mesh(config, jax.devices()[:1])
  step, arguments = train_step.train_step(config, mesh)
  lowered, (state, teacher, batch, _) = step.lower(*arguments), arguments
  forward = train_step.lower_forward(config)
  return {
    "config": train_step.describe(config),
    "params": networks.parameter_count(state.params),
    "teacher_params": networks.parameter_count(teacher) if teacher else None,
    "flops": {"forward": _flops(forward), "step": _flops(lowered)},
    "argument_bytes": {
      "state": _bytes(state),
      "teacher": _bytes(teacher),
      "batch": _bytes(batch),
    },
    "peak_bytes": _peak(lowered) if compiled else None,
  }


def _on_one_device(config: Any) -> Any:
  """The config for one device, in one piece: XLA counts a loop's body once."""
  config = copy.deepcopy(config)
  config.mesh.update(data=1, fsdp=1)
  config.microbatches = 1
  resolve.check(config)
  return config


def _flops(lowered: Any) -> float:
  return float((lowered.cost_analysis() or {}).get("flops", float("nan")))


def _bytes(tree: Any) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _peak(lowered: Any) -> int | None:
  memory = lowered.compile().memory_analysis()
  return memory and train_step.peak_bytes(memory)
