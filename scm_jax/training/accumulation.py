"""The gradient of a global batch, summed over microbatches and devices.

A device's part of the batch, and every microbatch of that, counts by its finite
samples, so that the sums divided by their number are the whole batch's loss,
gradient and metrics, whatever the parts: equal but for the order of summation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh

from scm_jax.training import sharding
from scm_jax.training.objective import Objective

# gradient(params, teacher_params, draws, step) -> (gradient, metrics)
Gradient = Callable[[Any, Any, Any, Array], tuple[Any, dict[str, Any]]]

SUMS = ("nonfinite_samples", "by_time")  # metrics that add up over parts;
ROOTS = ("output_rms",)  # those whose squares are means; all others are means


def make_gradient(
  objective: Objective,
  mesh: Mesh,
  specs: Any,
  teacher_specs: Any,
  microbatches: int,
) -> Gradient:
  """The gradient as code that every device runs on its part.

  Args:
    objective: whose networks take shards (see `networks.sharded`).
    mesh: of the devices.
    specs: where the parameters lie, and their gradient.
    teacher_specs: where the teacher's lie.
    microbatches: parts of a device's samples that follow one another, each
      with one forward and backward pass.

  Returns:
    A function of arrays on the mesh; `draws` over `sharding.BATCH`.
  """

  axes = tuple(axis for axis in mesh.axis_names if mesh.shape[axis] > 1)

  def on_device(params, teacher_params, draws, step):
    def of_part(draws):
      return _sums(objective, params, teacher_params, draws, step)

    sums = _over_microbatches(of_part, draws, microbatches)
    grads, metrics, count = sums
    metrics, count = lax.psum((metrics, count), axes)
    count = jnp.maximum(count, 1.0)

    def mean(grad, spec):
      # Gathering has summed what is sharded over its own axis.
      rest = tuple(axis for axis in axes if axis not in spec)
      return lax.psum(grad, rest) / count.astype(grad.dtype)

    return jax.tree.map(mean, grads, specs), _means(metrics, count)

  return jax.shard_map(
    on_device,
    mesh=mesh,
    in_specs=(specs, teacher_specs, sharding.BATCH, sharding.REPLICATED),
    out_specs=(specs, sharding.REPLICATED),
    check_vma=False,
  )


def _over_microbatches(of_part: Callable, draws: Any, parts: int) -> Any:
  """`of_part`, summed over parts of the draws."""
  if parts == 1:
    return of_part(draws)
  draws = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), draws)

  def add(total, part):
    return jax.tree.map(jnp.add, total, of_part(part)), None

  first = jax.tree.map(lambda x: x[0], draws)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_part, first)
  )
  return lax.scan(add, zeros, draws)[0]


def _sums(
  objective: Objective,
  params: Any,
  teacher_params: Any,
  draws: Any,
  step: Array,
) -> tuple[Any, dict[str, Any], Array]:
  """Gradient and metrics of a part times its finite samples; their number."""

  def total(params):
    mean, metrics = objective.loss(params, teacher_params, draws, step)
    count = len(draws["t"]) - metrics["nonfinite_samples"]
    count = count.astype(mean.dtype)
    return mean * count, (metrics, count)

  grads, (metrics, count) = jax.grad(total, has_aux=True)(params)
  return grads, _weighted(metrics, count), count


def _weighted(metrics: dict[str, Any], count: Array) -> dict[str, Any]:
  def weighted(name, value):
    if name in SUMS:
      return value
    return count * (jnp.square(value) if name in ROOTS else value)

  return {name: weighted(name, value) for name, value in metrics.items()}


def _means(sums: dict[str, Any], count: Array) -> dict[str, Any]:
  def mean(name, value):
    if name in SUMS:
      return value
    value = value / count
    return jnp.sqrt(value) if name in ROOTS else value

  return {name: mean(name, value) for name, value in sums.items()}
