"""The loss of a config's batches: random draws, conditions and the teacher."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import networks
from scm_jax.data import augmentation
from scm_jax.defaults import Run
from scm_jax.errors import ConfigError
from scm_jax.networks import Network
from scm_jax.objectives import (
  Point,
  Student,
  precision,
  teacher_path,
  velocity,
)
from scm_jax.training import loss_scaling

# All that is drawn for a batch: arrays whose first axis is the sample.
Draws = dict[str, Any]

AUGMENT = 0x61756721  # is folded into the key of a step


class Objective(NamedTuple):
  """The loss of a run, in pure functions.

  All randomness is in `draw`, which sees the whole batch. The others may be
  given any part of what it drew, so that a sample's draws do not depend on its
  microbatch, device or process.

  Attributes:
    draw: `draw(batch, key) -> draws`.
    loss: `loss(params, teacher_params, draws, step) -> (scalar, metrics)`; the
      scalar is a mean over the samples that are finite, and the metrics hold
      which of them are, `valid` `[B]`.
    check: `check(params, teacher_params, draws, step) -> sums`, the tangent's
      errors (see `precision.errors`); None where no tangent is taken.
    extra: the names of the other networks that are trained, whose parameters
      are `params[name]`.
  """

  draw: Callable[[dict[str, Array], Array], Draws]
  loss: Callable[[Any, Any, Draws, Array], tuple[Array, dict[str, Any]]]
  check: Callable[[Any, Any, Draws, Array], dict[str, Array]] | None
  extra: tuple[str, ...] = ()


class Networks(NamedTuple):
  """The networks that an objective evaluates, each in one precision.

  Attributes:
    student: the network that is trained.
    teacher: the network that gives the velocity; None where there is none.
    weak: the network that guides the teacher; None is the teacher itself,
      without labels. See `velocity.guided`.
    extra: the other networks that are trained, by name.
  """

  student: Network
  teacher: Network | None = None
  weak: Network | None = None
  extra: dict[str, Network] = {}

  def cast(
    self, dtype: Any, precision: str, last_float32: int = 0
  ) -> "Networks":
    """Returns the networks in another type and precision of their products."""

    def alter(network: Network) -> Network:
      given: Any = network.config  # of a family that has these fields
      altered = dataclasses.replace(
        given,
        dtype=jnp.dtype(dtype),
        precision=precision,
        last_float32=last_float32,
      )
      return network if altered == given else networks.build(altered)

    return self.map(alter)

  def map(self, f: Callable[..., Network], *trees: Any) -> "Networks":
    """Applies `f` to each network that there is, and its parts of the trees."""

    def apply(network: Any, *parts: Any) -> Any:
      if isinstance(network, dict):
        return {
          k: f(v, *(part[k] for part in parts)) for k, v in network.items()
        }
      return network and f(network, *parts)

    return Networks(*map(apply, self, *trees))


def build(
  config: Run,
  base: Networks,
  place: Callable[[Networks], Networks] = lambda given: given,
) -> Objective:
  """Builds the objective that `config.run` names.

  Args:
    config: the run's config.
    base: the networks; a teacher computes in the precision of the student.
    place: turns functions of whole parameters into functions of shards.
  """
  spec, options = config.spec, config.objective
  n = base.student.config
  draw = functools.partial(draw_batch, config)
  run = place(base.cast(n.dtype, n.precision, n.last_float32))
  extra, taught = run.extra, run
  if scales(config):
    run = run._replace(student=loss_scaling.probed(run.student))
    extra = {k: loss_scaling.probed(network) for k, network in extra.items()}
  others = {
    name: Student(network.F, network.w) for name, network in extra.items()
  }
  student = Student(run.student.F, run.student.w, extra=others)
  if options.tangent_pass:
    taught = place(base.cast(*options.tangent_pass))
    student = student._replace(tangent_F=taught.student.F)

  def loss(params, teacher_params, draws, step):
    teacher = velocity_of(config, taught, teacher_params)
    point = _point(draws)
    found = spec.loss(student, params, point, teacher, options, step)
    _check_result(config.run, found, len(point.t))
    total, told = found
    return total, {"nonfinite_samples": jnp.sum(~told["valid"])} | told

  if spec.tangent is None:
    return Objective(draw, loss, None, tuple(extra))
  exact = place(base.cast("float32", "highest"))

  def check(params, teacher_params, draws, step):
    # Both are taken at the same states, those that the run has.
    teacher = velocity_of(config, taught, teacher_params)
    point, _ = teacher_path.follow(_point(draws), teacher, options)
    there = dataclasses.replace(options, state_steps=0)

    def tangent(given: Networks):
      asked = Student(given.student.F, given.student.w)
      teacher = velocity_of(config, given, teacher_params)
      return spec.tangent(asked, params, point, teacher, there, step)

    return precision.errors(tangent(taught), tangent(exact), point.t)

  return Objective(draw, loss, check, tuple(extra))


def _check_result(run: str, result: Any, count: int) -> None:
  """Raises ConfigError unless a loss returned what `spec.Loss` says."""
  shape = lambda x: getattr(x, "shape", None)
  pair = isinstance(result, tuple) and len(result) == 2
  total, told = result if pair else (result, {})
  told = told if isinstance(told, dict) else {}
  valid: Any = told.get("valid")
  flags = shape(valid) == (count,) and valid.dtype == bool
  if shape(total) != () or not flags or "loss" not in told:
    raise ConfigError(
      f"the loss of the objective {run!r} must return a scalar and a dict of "
      "metrics, in which are `loss` and, as bools [B], `valid`"
    )


def scales(config: Run) -> bool:
  """Returns whether gradients are scaled on their way through the network."""
  return config.network.dtype == "float16"


def draw_batch(config: Run, batch: dict[str, Array], key: Array) -> Draws:
  """Draws data, noise, times and condition, all from one key."""
  options, spec = config.objective, config.spec
  noise_key, time_key, dropout_key, label_key, scale_key, encode_key = (
    jax.random.split(key, 6)
  )
  x0 = config.codec.encode(batch["image"], encode_key)
  z = options.sigma_d * jax.random.normal(noise_key, x0.shape)
  drawn = spec.draw(time_key, len(x0), options)
  cond = {}
  if config.network.augment:
    # A key beside the others, which so are those of runs without.
    augment_key, data = jax.random.fold_in(key, AUGMENT), config.data
    x0, cond["augment"] = augmentation.augment(
      x0, augment_key, data.augment, data.upright
    )
  num_classes = config.network.num_classes
  if num_classes:
    dropped = jax.random.bernoulli(label_key, options.label_dropout, (len(x0),))
    cond["label"] = jnp.where(dropped, num_classes, batch["label"])
  if config.network.guidance:
    cond["guidance"] = draw_scales(scale_key, len(x0), options)
  dropout_keys = jax.random.split(dropout_key, len(x0))
  draws = {"x0": x0, "z": z, "cond": cond, "dropout": dropout_keys}
  return draws | drawn


def draw_scales(key: Array, count: int, options: Any) -> Array:
  """Draws a guidance scale for each sample, `[count]`."""
  low, high = options.guidance_range
  if options.guidance_law == "uniform":
    return jax.random.uniform(key, (count,), minval=low, maxval=high)
  return low * (high / low) ** jax.random.uniform(key, (count,))


def _point(draws: Draws) -> Point:
  """Returns the batch as objectives take it."""
  fields = {k: value for k, value in draws.items() if k in Point._fields}
  others = draws.keys() - fields.keys() - {"dropout"}
  drawn = {name: draws[name] for name in others}
  return Point(**fields, rngs={"dropout": draws["dropout"]}, drawn=drawn)


def velocity_of(config, given: Networks, teacher_params) -> Any:
  """Returns the teacher's velocity, guided as the config says, or None."""
  c, teacher = config.objective, given.teacher
  if not config.asks_teacher:
    return None
  assert teacher is not None  # see resolve.check

  def guided(x, t, cond):
    if c.guidance == "none":
      return teacher.F(teacher_params, x, t, cond)
    fixed = c.guidance == "fixed"
    scale = c.guidance_scale if fixed else cond["guidance"]
    F = velocity.guided(
      teacher, given.weak, teacher_params, scale, c.guidance_interval
    )
    return F(x, t, cond)

  return velocity.from_network(guided, config.sigma_d)
