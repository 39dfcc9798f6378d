"""The gradient of a global batch, summed over microbatches and devices.

A device's part of the batch, and every microbatch of that, counts by its finite
samples, so that the sums divided by their number are the whole batch's loss,
gradient and metrics, whatever the parts: equal but for the order of summation.
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

SUMS = ("nonfinite_samples", "by_time")  # metrics that add up over parts;
ROOTS = ("output_rms",)  # those whose squares are means; all others are means
NAMED = 4  # samples left out of a step whose times and labels are told


class Options(NamedTuple):
  """How the gradient of a device's part is taken.

  Attributes:
    microbatches: parts of a device's samples that follow one another, each
      with one forward and backward pass.
    scaled: whether it is scaled on its way through the network, which must be
      `loss_scaling.probed`; for float16.
    isolated: whether a part whose gradient is not finite is done again without
      the samples that were left out of its loss. This is a loop in the
      program, of which most steps run one round.
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
  """The gradient as code that every device runs on its part.

  Args:
    objective: whose networks take shards (see `networks.sharded`).
    mesh: of the devices.
    specs: where the parameters lie, and their gradient.
    teacher_specs: where the teacher's lie.
    options: see `Options`.

  Returns:
    A function of arrays on the mesh; `draws` over `sharding.BATCH`. Beside the
    objective's metrics it gives `left_out`: `t` and `label` `[NAMED]` of the
    first samples that were not finite, -1 where there are fewer.
  """

  axes = tuple(axis for axis in mesh.axis_names if mesh.shape[axis] > 1)

  def on_device(params, teacher_params, draws, step):
    def of_part(draws):
      return _sums(
        *(objective, params, teacher_params, draws, step),
        axes=axes if options.scaled else None,
      )

    of_one = _isolated(of_part, axes) if options.isolated else of_part
    sums, valid = _over_microbatches(of_one, draws, options.microbatches)
    grads, metrics, count = sums
    # Each device names samples in a place of its own, above zero, so that the
    # sum that the metrics take anyway tells all devices.
    told = jnp.zeros((mesh.size, NAMED, 2))
    place = lax.axis_index(axes) if axes else 0
    told = told.at[place].set(_named(draws, valid) + 1)
    metrics, count, told = lax.psum((metrics, count, told), axes)
    count = jnp.maximum(count, 1.0)

    def mean(grad, spec):
      # Gathering has summed what is sharded over its own axis.
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
  """Sums of `of_part` over parts of the draws, and all parts' `valid`."""
  if parts == 1:
    return of_part(draws)
  draws = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), draws)

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
  """`of_part`, once more without its bad samples where they spoil it."""

  def agreed(flag):
    """Whether it is so on any device: their collectives must go together."""
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
  """The draws with nothing left of the samples that are not valid.

  All that they bring is a valid sample's; their data are NaN, which every
  objective leaves out before it asks the network.
  """
  donor = jnp.where(valid, jnp.arange(len(valid)), jnp.argmax(valid))
  draws = jax.tree.map(lambda x: x[donor], draws)
  mask = valid.reshape((-1,) + (1,) * (draws["x0"].ndim - 1))
  return draws | {"x0": jnp.where(mask, draws["x0"], jnp.nan)}


def _named(draws: Any, valid: Array) -> Array:
  """Times and labels of the first samples that are not valid, `[NAMED, 2]`."""
  label = draws["cond"].get("label", jnp.full(len(valid), -1))
  told = jnp.stack([draws["t"], label.astype(draws["t"].dtype)], axis=-1)
  told = jnp.pad(told, ((0, NAMED), (0, 0)), constant_values=-1)
  valid = jnp.pad(valid, (0, NAMED), constant_values=True)
  first = jnp.argsort(valid, stable=True)[:NAMED]
  return jnp.where(valid[first, None], -1, told[first])


def _left_out(told: Array) -> dict[str, Array]:
  """The first of what all devices named, `[devices, NAMED, 2]`."""
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
  """Sums over a part, and which of its samples are finite.

  The sums are the gradient and the metrics, each times the number of finite
  samples, and that number. `axes`, if given, asks for a scaled gradient.
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
    grads, aux = loss_scaling.gradient(total, params, output, axes)
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
