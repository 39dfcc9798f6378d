"""Consistency mid-training (CMT, arXiv 2509.24526).

The student learns to jump from every state of a trajectory, solved by the
teacher, to its end, or to a later state if it is to become a flow map. The
target is fixed: neither a derivative nor the student's own output is in it. So
a short run gives other objectives a start (`config.start`) that is much nearer
to their end than the teacher is.

A sample of the batch is a whole trajectory, solved anew in each step from its
noise and label; nothing is kept. With `N` states that takes `N` evaluations of
the teacher and trains the student `N` times, which is one evaluation for each
pair. The images of the data are not used.

The published distance is LPIPS, whose features share much with those of FID.
Here it is the squared distance, or the pseudo-Huber one of iCT (arXiv
2310.14189).
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.errors import ConfigError
from scm_jax.objectives import diagnostics, jumps, spec, weighting
from scm_jax.objectives.point import Point
from scm_jax.objectives.spec import Spec, Student
from scm_jax.objectives.velocity import Velocity
from scm_jax.samplers import SIGMA_MIN

HUBER = 0.00054  # iCT's constant, over the root of the number of pixels


@dataclasses.dataclass(frozen=True)
class Options(spec.Options):
  """Options of mid-training; the number of states is the published one.

  `P_mean` and `P_std` have no effect: the times are the solver's.

  Attributes:
    path_steps: `N`, the steps of the solver, and the states of a trajectory at
      which the student is trained.
    path_jitter: whether the times of each trajectory are shifted at random by
      up to half a step, so that the student sees all times; the published ones
      are always the same.
    ends: where jumps end: `zero`, at the end of the trajectory; or `path`, at
      any later state, for a flow map, which is told its time.
    distance: `l2`, the squared distance of `F` from its target; or
      `pseudo_huber`, iCT's distance of the ends of the jumps.
  """

  path_steps: int = 16
  path_jitter: bool = True
  ends: Literal["zero", "path"] = "zero"
  distance: Literal["l2", "pseudo_huber"] = "l2"

  def __post_init__(self) -> None:
    """Raises ConfigError for values that make no trajectory."""
    super().__post_init__()
    if self.path_steps < 2:
      raise ConfigError(
        f"path_steps is {self.path_steps}; a trajectory takes 2 steps or more"
      )

  @property
  def two_times(self) -> bool:
    """Whether jumps end at other times than 0, which the network is told."""
    return self.ends == "path"


class Pairs(NamedTuple):
  """The beginnings and ends of jumps along trajectories.

  Attributes:
    x_t: where they begin, `[B, N, ...]`.
    t: their first times, radians `[B, N]`.
    x_s: where they end, like `x_t`.
    s: their last times, radians `[B, N]`.
  """

  x_t: Array
  t: Array
  x_s: Array
  s: Array

  def target(self, sigma_d: float) -> Array:
    """Returns the `F` with which the jumps end as they should, like `x_t`."""
    span = trigflow.expand(self.t - self.s, self.x_t)
    return (jnp.cos(span) * self.x_t - self.x_s) / (sigma_d * jnp.sin(span))


def draw(key: Array, count: int, options: Options) -> dict[str, Array]:
  """Draws the shift of each trajectory, and which states its jumps end at.

  The time `t` is that at which all trajectories begin.
  """
  shift_key, end_key = jax.random.split(jax.random.fold_in(key, 3))
  jitter = 0.5 if options.path_jitter else 0.0
  drawn = {
    "t": jnp.full((count,), trigflow.max_time(options.sigma_d)),
    "shift": jax.random.uniform(
      shift_key, (count,), minval=-jitter, maxval=jitter
    ),
  }
  if options.two_times:
    shape = count, options.path_steps
    drawn["end"] = jax.random.uniform(end_key, shape)
  return drawn


def loss(
  student: Student,
  params: Any,
  point: Point,
  velocity: Velocity | None,
  options: Options,
  step: Array | float,
) -> tuple[Array, dict[str, Any]]:
  """Computes the loss of a batch of trajectories, and its metrics.

  Of the batch, the noise and the condition are used.

  Returns:
    A scalar, the mean over all states of all trajectories; and a dict of sums
    and counts (see `diagnostics`), and `valid` `[B]`. A trajectory of which a
    state or an output is not finite is left out, and counted.
  """
  del step
  assert velocity is not None
  sigma_d = options.sigma_d
  pairs = jax.lax.stop_gradient(pairs_of(point, velocity, options))
  valid = diagnostics.finite(point.x0, pairs.x_t, pairs.x_s)
  pairs = pairs._replace(
    x_t=diagnostics.select(valid, pairs.x_t),
    x_s=diagnostics.select(valid, pairs.x_s),
  )
  output = _outputs(student, params, point, pairs, options)
  valid &= diagnostics.finite(output)
  output = diagnostics.select(valid, output)
  squares = jnp.square(output - pairs.target(sigma_d))
  squares = squares.mean(axis=tuple(range(2, squares.ndim))).reshape(-1)
  t, s = pairs.t.reshape(-1), pairs.s.reshape(-1)
  mse = squares * jnp.square(sigma_d * jnp.sin(t - s))
  ends = [s] if options.two_times else []
  log_weight = weighting.log_weight(student, params, options, t, *ends)
  every = jnp.repeat(valid, options.path_steps)
  scale = weighting.UNITS[options.weighting_unit](point.x0.shape[1:])
  error = DISTANCES[options.distance](squares, mse)
  total, per_state = weighting.weigh(error, log_weight, every, scale)
  return total, jax.lax.stop_gradient(
    {
      "loss": total,
      "mse": diagnostics.mean(every, mse),
      "output_rms": diagnostics.rms(valid, output),
      "nonfinite_samples": jnp.sum(~valid),
      "valid": valid,
      "by_time": diagnostics.by_time(t, every, loss=per_state, mse=mse),
    }
  )


def pairs_of(point: Point, velocity: Velocity, options: Options) -> Pairs:
  """Solves a batch of trajectories and returns the jumps that are learnt."""
  steps = options.path_steps
  passed = times(point.drawn["shift"], steps, options.sigma_d)
  # A teacher takes no such input; a stand-in for it, in plans, may.
  cond = jumps.told(point, jnp.zeros_like(point.t)).cond
  states = solve(velocity, point.z, cond, passed)
  passed = passed.T
  x_t, t = states[:, :-1], passed[:, :-1]
  if not options.two_times:
    x_s = jnp.broadcast_to(states[:, -1:], x_t.shape)
    return Pairs(x_t, t, x_s, jnp.zeros_like(t))
  place = jnp.arange(steps)
  later = jnp.floor(point.drawn["end"] * (steps - place)).astype(place.dtype)
  end = jnp.minimum(place + 1 + later, steps)
  take = lambda x: jnp.take_along_axis(x, trigflow.expand(end, x), axis=1)
  return Pairs(x_t, t, take(states), take(passed))


def times(shift: Array, steps: int, sigma_d: float) -> Array:
  """Returns the times of trajectories, evenly spaced in `ln sigma`.

  Args:
    shift: by which part of a step the times of each trajectory come later, from
      -1/2 to 1/2, `[B]`; the first time is `t_max` whatever the shift.
    steps: `N`, the evaluations of the velocity for a trajectory, 2 or more.
    sigma_d: the data's standard deviation.

  Returns:
    Radians `[N + 1, B]`, decreasing from `t_max` to 0.
  """
  step = math.log(trigflow.SIGMA_MAX / SIGMA_MIN) / (steps - 1)
  place = jnp.arange(steps, dtype=shift.dtype)[:, None]
  place += jnp.where(place > 0, shift, 0.0)
  sigma = trigflow.SIGMA_MAX * jnp.exp(-step * place)
  decreasing = trigflow.sigma_to_time(sigma, sigma_d)
  return jnp.concatenate([decreasing, jnp.zeros_like(decreasing[:1])])


def solve(
  velocity: Velocity, z: Array, cond: dict[str, Array], times: Array
) -> Array:
  """Solves trajectories by DPM-Solver++ 2M (sCM, Equation 28).

  It is `samplers.dpm_solver`, with times of its own for every trajectory, so
  that a batch sees more noise levels than a solver has steps. The first step,
  which has no predecessor, and the last one, at whose end the log-SNR is
  infinite, are of first order.

  Args:
    velocity: the teacher.
    z: noise `[B, ...]` with the data's standard deviation.
    cond: the batch's condition.
    times: radians `[N + 1, B]`, decreasing to 0.

  Returns:
    The states at all times, `[B, N + 1, ...]`, of which the first is `z`.
  """
  wide = lambda t: trigflow.expand(t, z)

  def step(carry, given):
    x, x0_before = carry
    s, t, weight = given
    x0 = wide(jnp.cos(s)) * x - wide(jnp.sin(s)) * velocity(x, s, cond)
    ahead = x0 + wide(weight) * (x0 - x0_before)
    moved = wide(jnp.sin(t)) * x + wide(jnp.sin(s - t)) * ahead
    return (moved / wide(jnp.sin(s)), x0), x

  # How far the estimate of the data is extrapolated from the last two.
  length = jnp.diff(-jnp.log(jnp.tan(times[:-1])), axis=0)
  inner = length[1:] / (2 * length[:-1])
  none = jnp.zeros_like(times[:1])
  weights = jnp.concatenate([none, inner, none])
  scanned = times[:-1], times[1:], weights
  (end, _), states = jax.lax.scan(step, (z, jnp.zeros_like(z)), scanned)
  return jnp.moveaxis(jnp.concatenate([states, end[None]]), 0, 1)


def _outputs(
  student: Student, params: Any, point: Point, pairs: Pairs, options: Options
) -> Array:
  """Evaluates the student at all states, each with a dropout of its own."""
  split = jax.vmap(lambda key: jax.random.split(key, options.path_steps))
  rngs = jax.tree.map(split, point.rngs)

  def at_one(x_t, t, s, rngs):
    there = point._replace(rngs=rngs)
    if options.two_times:
      there = jumps.told(there, s)
    return spec.evaluate(student.F, params, x_t / options.sigma_d, t, there)

  each = pairs.x_t, pairs.t, pairs.s, rngs
  return jax.vmap(at_one, in_axes=1, out_axes=1)(*each)


# distance(mean square of F's error, mean square of the ends' error), both over
# the pixels and for each state.
DISTANCES = {
  "l2": lambda squares, mse: squares,
  "pseudo_huber": lambda squares, mse: jnp.sqrt(mse + HUBER**2) - HUBER,
}

CMT = Spec(
  label="CMT",
  color="#117733",
  marker="<",
  description="a consistency model by mid-training on trajectories (CMT)",
  kind="consistency",
  options=Options,
  loss=loss,
  draw=draw,
  asks_teacher=spec.always,
  takes_guidance=lambda options: options.guidance == "sampled",
  path_states=lambda options: options.path_steps,
)
