"""What a train step must hold and send, from shapes and shardings alone."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scm_jax.defaults import Run
from scm_jax.networks import sharded
from scm_jax.planning.estimate import Traffic
from scm_jax.training import offload, program, sharding
from scm_jax.training.sharding import DATA, FSDP
from scm_jax.training.step import init_state


class Shapes(NamedTuple):
  """A run's state and its teacher's float32 parameters, if any, as shapes."""

  state: Any
  teacher: Any


class Arguments(NamedTuple):
  """The arguments of a train step as shapes, types and shardings."""

  state: Any
  teacher: Any
  batch: Any


def trace(config: Run) -> Shapes:
  """Returns a config's shapes; takes seconds for the largest networks."""
  state = jax.eval_shape(lambda: init_state(config))
  if not config.asks_teacher:
    return Shapes(state, None)
  teacher, weak = program.teacher_network(config), program.guide_network(config)
  init = functools.partial(program.init_teacher, teacher, weak)
  return Shapes(state, jax.eval_shape(init))


def arguments(config: Run, mesh: Any, shapes: Shapes) -> Arguments:
  """Returns the train step's arguments on a mesh, which may be abstract."""
  cast = functools.partial(program.cast_teacher, config)
  teacher = shapes.teacher and jax.eval_shape(cast, shapes.teacher)
  state = sharding.placed(config, mesh, shapes.state)
  return Arguments(
    offload.placed(config, state),
    teacher and sharding.placed(config, mesh, teacher),
    program.abstract_batch(config, mesh),
  )


def resident(arguments: Arguments) -> dict[str, int]:
  """Returns the bytes that one device holds between steps, by what they are."""
  state = arguments.state
  moments = (extra.opt_state for extra in state.extra.values())
  return {
    "parameters": local_bytes(state.trained),
    "moments": local_bytes([state.opt_state, *moments]),
    "averages": local_bytes(state.ema),
    "teacher": local_bytes(arguments.teacher),
    "batch": local_bytes(arguments.batch),
  }


def minimum(config: Run, arguments: Arguments, domain: int) -> list[Traffic]:
  """Returns the traffic that fully sharded data parallelism needs at least.

  Each microbatch gathers the sharded parameters over `fsdp`, and sums and
  scatters their gradients over it. After the last one, each device's part of
  the gradient is summed over `data`, and the gradient of the replicated
  parameters over all devices, in the parameters' own type. `domain` is the
  number of devices that fast links connect.
  """
  mesh = arguments.batch["label"].sharding.mesh
  data, fsdp = mesh.shape[DATA], mesh.shape[FSDP]
  devices = data * fsdp
  microbatches = sharding.microbatches(config, devices)
  params = arguments.state.trained
  replicated = sum(
    leaf.size * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(params)
    if not _is_sharded(leaf)
  )
  split = local_bytes(params) - replicated
  gathered = microbatches * _gathered_bytes(config, params, arguments.teacher)
  scattered = microbatches * _sharded_bytes(
    params, config.network.dtype, config.sharding.reduce_dtype
  )
  # A device sends this part of an array in a ring.
  ring = lambda size: (size - 1) / size
  within, across = min(fsdp, domain), min(data, max(1, domain // fsdp))
  summed, everywhere = 2 * replicated * ring(devices), min(devices, domain)
  found = [
    Traffic("all-gather", gathered * ring(fsdp), fsdp, within),
    Traffic("reduce-scatter", scattered * ring(fsdp), fsdp, within),
    Traffic("all-reduce", split * 2 * ring(data), data, across),
    Traffic("all-reduce", summed, devices, everywhere),
  ]
  return [traffic for traffic in found if traffic.bytes]


def _gathered_bytes(config: Run, params: Any, teacher: Any) -> float:
  """Returns the bytes that each layer gathers in all passes of a microbatch."""
  options = config.objective
  forwards = config.spec.forwards(options)
  # A guide's parameters are gathered with the teacher's, once for each.
  evaluations = options.teacher_evaluations // (2 if config.guide else 1)
  evaluations *= config.spec.path_states(options)
  own = config.network.dtype
  # The tangent, where it has a type of its own, is one more forward pass in it,
  # and the teacher computes in that type, too.
  apart = options.tangent_pass[0] if options.tangent_pass else own
  values = 2 if options.tangent_pass else forwards + 1
  tangents = forwards if options.tangent_pass else 0
  return (
    values * _sharded_bytes(params, own)
    + tangents * _sharded_bytes(params, apart)
    + evaluations * _sharded_bytes(teacher, apart)
  )


def _sharded_bytes(tree: Any, computed: str, sent: str = "") -> int:
  """Returns the bytes of a network's sharded parameters as layers send them.

  Layers compute in the type `computed`; `sent` is the type that all are sent
  in, "" leaves it to each layer.
  """
  total = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if _is_sharded(leaf):
      as_computed = sharded.gathered_as_computed(path)
      dtype = sent or (computed if as_computed else leaf.dtype)
      total += leaf.size * jnp.dtype(dtype).itemsize
  return total


def local_bytes(tree: Any) -> int:
  """Returns the bytes of a tree's arrays on one device, without its host's."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
    if not offload.on_host(leaf)
  )


def _is_sharded(leaf: Any) -> bool:
  return any(leaf.sharding.spec)
