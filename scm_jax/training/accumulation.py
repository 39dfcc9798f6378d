"""Accumulates the gradient of a batch over microbatches and devices.

Each microbatch on each device is weighted by the number of its finite samples.
So the sums over all of them, divided by the sum of these numbers, are the loss,
the gradient and the metrics of the whole batch, however it is divided, up to
the order of summation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh

from scm_jax.training import loss_scaling, sharding
from scm_jax.training.objective import Objective

# gradient(params, teacher_params, draws, step) -> (gradient, metrics)
Gradient = Callable[[Any, Any, Any, Array], tuple[Any, dict[str, Any]]]

# Metrics that are summed over parts.
SUMS = ("nonfinite_samples", "by_time", "by_jump")
ROOTS = ("output_rms",)  # metrics whose squares are averaged, unlike all others
NAMED = 4  # samples left out of a step whose times and labels are reported


class Options(NamedTuple):
  """How a device computes the gradient of its part of the batch.

  Attributes:
    microbatches: the number of parts of a device's samples, computed one after
      the other with one forward and backward pass each.
    scaled: whether to scale the gradient on its way through the network (see
      `loss_scaling`), which must be `loss_scaling.probed`; for float16.
    isolated: whether to compute a microbatch whose gradient is not finite once
      more, without the samples that were left out of its loss. This is a loop
      in the program, which most steps run once.
  """

  microbatches: int = 1
  scaled: bool = False
  isolated: bool = False


def make_gradient(
  objective: Objective,
  mesh: Mesh,
  specs: Any,
  teacher_specs: Any,
  options: Options,
) -> Gradient:
  """Returns the gradient function, which every device runs on its part.

  The objective's networks take shards (`networks.sharded`). The partition specs
  are those of the parameters, which their gradient has too, and the teacher's.

  Returns:
    A function of arrays on the mesh, with `draws` sharded by `sharding.BATCH`.
    Its metrics are the objective's and `left_out`: `t` and `label` `[NAMED]` of
    the first samples that were not finite, -1 where there are fewer.
  """
  axes = tuple(axis for axis in mesh.axis_names if mesh.shape[axis] > 1)

  def on_device(params, teacher_params, draws, step):
    def of_part(draws):
      return _sums(
        objective,
        params,
        teacher_params,
        draws,
        step,
        axes=axes if options.scaled else None,
      )

    of_one = _isolated(of_part, axes) if options.isolated else of_part
    sums, valid = _over_microbatches(of_one, draws, options.microbatches)
    grads, metrics, count = sums
    # Each device writes its samples, as numbers above zero, into its own row of
    # zeros, so that the sum over devices, which the metrics take anyway, tells
    # them to all devices.
    told = jnp.zeros((mesh.size, NAMED, 2))
    place = lax.axis_index(axes) if axes else 0
    told = told.at[place].set(_named(draws, valid) + 1)
    metrics, count, told = lax.psum((metrics, count, told), axes)
    count = jnp.maximum(count, 1.0)

    def mean(grad, spec):
      # The transpose of gathering has already summed over the sharded axis.
      rest = tuple(axis for axis in axes if axis not in spec)
      return lax.psum(grad, rest) / count.astype(grad.dtype)

    metrics = _means(metrics, count) | {"left_out": _left_out(told - 1)}
    return jax.tree.map(mean, grads, specs), metrics

  return jax.shard_map(
    on_device,
    mesh=mesh,
    in_specs=(specs, teacher_specs, sharding.BATCH, sharding.REPLICATED),
    out_specs=(specs, sharding.REPLICATED),
    check_vma=False,
  )


def _over_microbatches(of_part: Callable, draws: Any, parts: int) -> Any:
  """Returns the sums of `of_part` over microbatches, and `valid` of all."""
  if parts == 1:
    return of_part(draws)
  # An array may have an axis of no entries, so that -1 would say nothing.
  split = lambda x: x.reshape(parts, len(x) // parts, *x.shape[1:])
  draws = jax.tree.map(split, draws)

  def add(total, part):
    sums, valid = of_part(part)
    return jax.tree.map(jnp.add, total, sums), valid

  first = jax.tree.map(lambda x: x[0], draws)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_part, first)[0]
  )
  sums, valid = lax.scan(add, zeros, draws)
  return sums, valid.reshape(-1)


def _isolated(of_part: Callable, axes: tuple[str, ...]) -> Callable:
  """Returns `of_part` that is repeated without samples that spoil the sums."""

  def agreed(flag):
    """Returns whether it holds on any device, as all must run together."""
    return lax.pmax(flag.astype(jnp.int32), axes) > 0

  def spoilt(sums, valid):
    grads = jax.tree.leaves(sums[0])
    finite = jnp.stack([jnp.isfinite(grad).all() for grad in grads]).all()
    return agreed(~finite & ~valid.all())

  def run(draws):
    def attempt(state):
      number, draws, _, _ = state
      sums, valid = of_part(draws)
      again = (number == 0) & spoilt(sums, valid)
      return number + 1, _without(draws, valid), (sums, valid), again

    empty = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_part, draws)
    )
    start = (jnp.int32(0), draws, empty, jnp.bool_(True))
    return lax.while_loop(lambda state: state[3], attempt, start)[2]

  return run


def _without(draws: Any, valid: Array) -> Any:
  """Returns the draws without the values of the samples that are not valid.

  Such a sample gets the values of a valid one, and data that are NaN, which
  every objective leaves out before it calls the network.
  """
  donor = jnp.where(valid, jnp.arange(len(valid)), jnp.argmax(valid))
  draws = jax.tree.map(lambda x: x[donor], draws)
  mask = valid.reshape((-1,) + (1,) * (draws["x0"].ndim - 1))
  return draws | {"x0": jnp.where(mask, draws["x0"], jnp.nan)}


def _named(draws: Any, valid: Array) -> Array:
  """Returns times and labels `[NAMED, 2]` of the first invalid samples."""
  label = draws["cond"].get("label", jnp.full(len(valid), -1))
  told = jnp.stack([draws["t"], label.astype(draws["t"].dtype)], axis=-1)
  told = jnp.pad(told, ((0, NAMED), (0, 0)), constant_values=-1)
  valid = jnp.pad(valid, (0, NAMED), constant_values=True)
  first = jnp.argsort(valid, stable=True)[:NAMED]
  return jnp.where(valid[first, None], -1, told[first])


def _left_out(told: Array) -> dict[str, Array]:
  """Returns the first of the samples `[devices, NAMED, 2]` of all devices."""
  told = told.reshape(-1, 2)
  first = jnp.argsort(told[:, 0] < 0, stable=True)[:NAMED]
  return {"t": told[first, 0], "label": told[first, 1].astype(jnp.int32)}


def _sums(
  objective: Objective,
  params: Any,
  teacher_params: Any,
  draws: Any,
  step: Array,
  *,
  axes: tuple[str, ...] | None,
) -> tuple[tuple[Any, dict[str, Any], Array], Array]:
  """Returns sums over a microbatch, and which of its samples are finite.

  The sums are the gradient and the metrics, each times the number of finite
  samples, and that number. If `axes` is given, the gradient is computed with
  loss scaling, whose factor the devices along these axes share.
  """

  def total(params):
    mean, metrics = objective.loss(params, teacher_params, draws, step)
    valid = metrics.pop("valid")
    count = jnp.sum(valid).astype(mean.dtype)
    return mean * count, (metrics, count, valid)

  if axes is None:
    grads, aux = jax.grad(total, has_aux=True)(params)
  else:
    x0 = draws["x0"]
    output = jax.ShapeDtypeStruct(x0.shape, x0.dtype)
    grads, aux = loss_scaling.gradient(
      total, params, output, axes, objective.extra
    )
  metrics, count, valid = aux
  return (grads, _weighted(metrics, count), count), valid


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
