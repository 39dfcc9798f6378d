"""What a step must hold and send, from shapes and shardings alone.

The compiled program is held against these figures, and `search` ranks meshes by
them before anything is compiled.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from scm_jax import networks
from scm_jax.networks import magnitude
from scm_jax.planning.estimate import Traffic
from scm_jax.training import offload, program, resolve, sharding
from scm_jax.training.sharding import DATA, FSDP
from scm_jax.training.step import init_state

# Passes over the student's weights before the backward one.
_FORWARDS = {"jvp": 1, "finite_difference": 3, "discrete": 2}


class Arguments(NamedTuple):
  """The arguments of a step as shapes, types and shardings."""

  state: Any
  teacher: Any
  batch: Any


class Shapes(NamedTuple):
  """What all meshes have in common: shapes and types.

  Attributes:
    state: of a run.
    teacher: its parameters in float32, or None where no step asks it.
  """

  state: Any
  teacher: Any


def trace(config: Any) -> Shapes:
  """Those of a config; takes seconds for the largest networks."""
  network = networks.build(resolve.network_config(config))
  state = jax.eval_shape(lambda: init_state(config, network))
  if not resolve.asks_teacher(config):
    return Shapes(state, None)
  teacher = program.teacher_network(config)
  return Shapes(state, jax.eval_shape(teacher.init, jax.random.key(0)))


def arguments(config: Any, mesh: Any, shapes: Shapes) -> Arguments:
  """Those of the config's step on a mesh, which may be abstract."""
  cast = functools.partial(program.cast_teacher, config)
  teacher = shapes.teacher and jax.eval_shape(cast, shapes.teacher)
  state = sharding.placed(config, mesh, shapes.state)
  return Arguments(
    offload.placed(config, state),
    teacher and sharding.placed(config, mesh, teacher),
    program.abstract_batch(config, mesh),
  )


def abstract_mesh(data: int, fsdp: int) -> AbstractMesh:
  """A mesh of these sizes, of no devices."""
  return AbstractMesh((data, fsdp), (DATA, FSDP))


def resident(arguments: Arguments) -> dict[str, int]:
  """Bytes on a device between steps, and of the batch, by what they are."""
  state = arguments.state
  return {
    "parameters": local_bytes(state.params),
    "moments": local_bytes(state.opt_state),
    "averages": local_bytes(state.ema),
    "teacher": local_bytes(arguments.teacher),
    "batch": local_bytes(arguments.batch),
  }


def minimum(config: Any, arguments: Arguments, domain: int) -> list[Traffic]:
  """What fully sharded data parallelism cannot do without.

  Every sharded weight is gathered over `fsdp` once for each forward and each
  backward pass, in the type that the pass computes in; its gradient is summed
  and scattered in that type (or `config.sharding.reduce_dtype`) once a backward
  pass. What a device then
  has of the gradient is summed over `data` in the parameters' own type, and
  the gradient of replicated parameters over all devices, once a step.

  Args:
    config: the run's config.
    arguments: of its step.
    domain: devices of one domain of fast links.
  """
  mesh = arguments.batch["label"].sharding.mesh
  data, fsdp = mesh.shape[DATA], mesh.shape[FSDP]
  size = lambda dtype: jnp.dtype(dtype).itemsize
  itemsize = size(config.network.dtype)
  weights = _sharded_elements(arguments.state.params)
  taught = _sharded_elements(arguments.teacher)
  forwards = 1
  if config.run != "teacher":
    forwards = _FORWARDS[config.objective.derivative]
  teaching = 2 if config.objective.guidance != "none" else 1
  passes = sharding.microbatches(config, data * fsdp)
  taken = config.objective.tangent_dtype if config.run != "teacher" else ""
  apart = size(taken) if taken else itemsize
  # A tangent of its own is one forward pass more, in its type as the teacher.
  value = weights * (2 if taken else forwards + 1) * itemsize
  tangent = (weights * forwards if taken else 0) + taught * teaching
  gathered = (value + tangent * apart) * passes
  scattered = (
    weights
    * size(config.sharding.reduce_dtype or config.network.dtype)
    * passes
  )
  gradient = local_bytes(arguments.state.params)
  replicated = _replicated_bytes(arguments.state.params)
  inner, outer = _part(fsdp), 2 * _part(data)
  within = min(fsdp, domain)
  across = min(data, max(1, domain // fsdp))
  everyone = data * fsdp
  found = [
    Traffic("all-gather", gathered * inner, fsdp, within),
    Traffic("reduce-scatter", scattered * inner, fsdp, within),
    Traffic("all-reduce", (gradient - replicated) * outer, data, across),
    Traffic(
      "all-reduce",
      2 * replicated * _part(everyone),
      everyone,
      min(everyone, domain),
    ),
  ]
  return [traffic for traffic in found if traffic.bytes]


def _part(size: int) -> float:
  """Of an array that a device sends in a ring, or receives from it."""
  return (size - 1) / size


def local_bytes(tree: Any) -> int:
  """Bytes of a tree's arrays on one device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
    if not offload.on_host(leaf)
  )


def _sharded_elements(tree: Any) -> int:
  """Elements, of all devices, of weights that are split."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return sum(
    leaf.size
    for path, leaf in leaves
    if any(leaf.sharding.spec) and path[-1].key == magnitude.WEIGHT
  )


def _replicated_bytes(tree: Any) -> int:
  return sum(
    leaf.size * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
    if not any(leaf.sharding.spec)
  )
