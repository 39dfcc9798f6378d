"""The tangents of a batch, as an objective's options say."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.objectives import diagnostics, jumps, spec, tangent
from scm_jax.objectives.point import Point
from scm_jax.objectives.tangent import Direction, Jump
from scm_jax.objectives.velocity import (
  Velocity,
  from_network,
  guide_sample,
  is_guided,
  unconditional,
)

ANNEALING = 25.0  # steepness of alpha-Flow's sigmoid, as published
LAST_EASY = 256.0  # q^(k + 1) at the end of ECT's published runs
SMALLEST_PART = 0.005  # below it the published code takes the derivative


class Tangent(NamedTuple):
  """The network's value and its tangent.

  Attributes:
    output: `F(x_t / sigma_d, t)`, `[B, ...]`.
    g: the tangent before its normalisation, `[B, ...]`.
    rate: the norm of `dF/dt`, `[B]`; zero where no derivative is taken.
  """

  output: Array
  g: Array
  rate: Array


def tangents(
  F: Callable,
  params: Any,
  point: Point,
  velocity: Velocity | None,
  options: Any,
  step: Array | float,
) -> Tangent:
  """Computes the network's value and its raw tangent, as the options say.

  The gradient of the value is the network's; the tangent has none. The batch is
  as `jumps.prepared` returns it; the other arguments are those of
  `consistency.loss`.
  """
  x_t = trigflow.interpolate(point.x0, point.z, point.t)
  dx_dt, own = _velocities(F, params, point, x_t, velocity, options)
  along = Direction(x_t, own, jumps.of(point, options))
  jump, wide = along.jump, along.wide
  primal = lambda u, t: spec.evaluate(F, params, u, t, point)
  found = DERIVATIVES[options.derivative](primal, along, step, options)
  if not options.two_times:
    return found
  if options.along == "network":
    # The published error is `u + (t - r) du/dt - v` in the coordinates of a
    # rectified flow, and has the given velocity in its last term alone.
    start, end = jump.radii
    error = wide(jump.a * end / start) * (dx_dt - along.dx_dt)
    found = found._replace(g=found.g + error)
  # A jump of no length has the velocity alone to learn.
  moves = jump.span > 0
  gap = options.sigma_d * jax.lax.stop_gradient(found.output) - dx_dt
  still = -wide(jump.a) * gap
  return found._replace(
    g=diagnostics.select(moves, found.g, still),
    rate=jnp.where(moves, found.rate, 0.0),
  )


def _velocities(
  F: Callable,
  params: Any,
  point: Point,
  x_t: Array,
  velocity: Velocity | None,
  options: Any,
) -> tuple[Array, Array]:
  """Returns the velocities to learn, and those to differentiate along."""
  t = point.t
  if velocity is None:
    dx_dt = trigflow.data_velocity(point.x0, point.z, t)
  else:
    dx_dt = jax.lax.stop_gradient(velocity(x_t, t, point.cond))
  if not (options.along == "network" or options.guides_itself):
    return dx_dt, dx_dt
  # As a teacher would be asked, without dropout.
  asked = functools.partial(F, jax.lax.stop_gradient(params))
  ask = functools.partial(from_network(asked, options.sigma_d), x_t, t)
  cond = jumps.told(point, t).cond
  own = ask(cond)
  if options.guides_itself:
    dx_dt = _guided(dx_dt, own, ask, point._replace(cond=cond), options)
  return dx_dt, own if options.along == "network" else dx_dt


def _guided(
  dx_dt: Array,
  own: Array,
  ask: Callable[[dict[str, Array]], Array],
  point: Point,
  options: Any,
) -> Array:
  """Returns samples' velocities, guided by those that the network has itself.

  Samples whose label was dropped keep theirs, as published, so that the network
  without labels learns the data; so do those outside of the guided interval.

  Args:
    dx_dt: the samples' velocities.
    own: the network's, with the condition of the point.
    ask: gives the network's with another condition.
    point: the batch, with the network's condition where `s = t`.
    options: the choices.
  """
  cond = point.cond
  scale = cond.get("guidance", options.guidance_scale)
  none = unconditional(cond, options.num_classes)
  if "guidance" in cond:
    # Without a label every scale that is drawn means the same: 1, if it is.
    low, high = options.guidance_range
    none |= {"guidance": jnp.full_like(scale, min(max(1.0, low), high))}
  guided = guide_sample(dx_dt, own, ask(none), scale, options.omega)
  labelled = cond["label"] != options.num_classes
  where = is_guided(point.t, options.guidance_interval, options.sigma_d)
  return diagnostics.select(labelled & where, guided, dx_dt)


def _warmup(step: Array | float, options: Any) -> Array:
  """Returns `r`, which is at its limit from the start without a warm-up."""
  done = step / options.warmup_steps if options.warmup_steps else 1.0
  return options.warmup_limit * jnp.minimum(1.0, done)


def _by_jvp(primal, direction, step, options) -> Tangent:
  """Takes the tangent of the exact derivative."""
  output, dF = tangent.by_jvp(primal, direction)
  return _derived(direction, output, dF, step, options)


def _by_finite_difference(primal, direction, step, options) -> Tangent:
  """Takes the tangent of the derivative by central differences."""
  size = options.finite_difference_step
  output, dF = tangent.by_finite_difference(primal, direction, size)
  return _derived(direction, output, dF, step, options)


def _derived(direction, output, dF, step, options) -> Tangent:
  """Returns the tangent of a derivative."""
  r, there = _warmup(step, options), direction.jump
  g = tangent.consistency_tangent(direction, output, dF, r, options.warmup)
  rate = diagnostics.norms(dF) / (there.a * jnp.sin(there.span))
  return Tangent(output, g, rate)


def _discrete(primal, direction, step, options) -> Tangent:
  """Takes dsCD's tangent, over one step of the grid."""
  t_next = jumps.successors(direction.jump.t, options)
  return _stepped(primal, direction, t_next, _warmup(step, options))


def _relative(primal, direction, step, options) -> Tangent:
  """Takes alpha-Flow's tangent, over a part of the way (arXiv 2510.20771).

  The part `alpha` falls from 1, where the tangent is the velocity's error, by a
  sigmoid. The result is the published residual over `alpha`.
  """
  there = direction.jump
  first, last = options.anneal_steps
  progress = (step - first) / max(last - first, 1)
  alpha = jax.nn.sigmoid(ANNEALING * (0.5 - progress))
  alpha = jnp.where(alpha > 1 - SMALLEST_PART, 1.0, alpha)
  delta = jnp.maximum(alpha, SMALLEST_PART) * there.span
  r = _warmup(step, options)
  found = _stepped(primal, direction, there.t - delta, r)
  return found._replace(g=found.g * direction.wide(jnp.sinc(delta / jnp.pi)))


def _easy(primal, direction, step, options) -> Tangent:
  """Takes ECT's tangent, over a step that shrinks by stages.

  It is the difference itself of the jumps from the step's two points, as in the
  published loss, so that constants beside its norm mean the same here.
  """
  there = direction.jump
  t_next = easy_successors(there, options, step)
  found = _stepped(primal, direction, t_next, 1.0)
  length = jnp.sin(there.t - t_next) / there.a
  return found._replace(g=found.g * direction.wide(length))


def _stepped(primal, direction, t_next, r) -> Tangent:
  """Takes the tangent of a step to the times `t_next` with the warm-up `r`."""
  there = direction.jump
  output = primal(direction.x_t / there.sigma_d, there.t)
  g = tangent.discrete_tangent(direction, primal, output, t_next, r)
  return Tangent(output, g, jnp.zeros_like(there.t))


def easy_successors(jump: Jump, options: Any, step: Array | float) -> Array:
  """Returns the times `[B]` at which ECT's steps end."""
  each = options.easy_stage
  last = easy_stages(options)
  stage = jnp.minimum(jnp.floor_divide(step, each), last) if each else 0
  part = easy_part(jump) * options.easy_base ** -(stage + 1.0)
  sigma = trigflow.time_to_sigma(jump.t, jump.sigma_d)
  left = jnp.maximum(1 - part, 0.0)
  return trigflow.sigma_to_time(sigma * left, jump.sigma_d)


def easy_stages(options: Any) -> int:
  """Returns the last stage, whose steps are as small as ECT's last ones.

  Smaller ones would be lost in rounding. Its authors end with `q^(k + 1) =
  256`, whether in one stage or in eight.
  """
  return max(math.ceil(math.log(LAST_EASY, options.easy_base) - 1e-9) - 1, 0)


def easy_part(jump: Jump) -> Array:
  """Returns ECT's `n = 1 + 8 sigmoid(-sigma)`."""
  sigma = trigflow.time_to_sigma(jump.t, jump.sigma_d)
  return 1 + 8 * jax.nn.sigmoid(-sigma)


# take(primal, direction, step, options)
DERIVATIVES = {
  "jvp": _by_jvp,
  "finite_difference": _by_finite_difference,
  "discrete": _discrete,
  "relative": _relative,
  "easy": _easy,
}


def normalized(g: Array, point: Point, options: Any) -> Array:
  """Returns the tangent normalised, and where `s = t` the velocity's error.

  That error is not normalised: with a velocity from data the normalised one
  would vanish at a median of the velocities, not at their mean.
  """
  there = jumps.of(point, options)
  bounded = tangent.normalize_tangent(
    g, there, options.tangent_norm, options.tangent_c
  )
  if not options.two_times:
    return bounded
  error = g / trigflow.expand(options.sigma_d * there.a, g)
  return diagnostics.select(there.span > 0, bounded, error)
