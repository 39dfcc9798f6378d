"""Truncated consistency models (TCM, arXiv 2410.14895), after ECT.

A second stage of training: the student is trained at late times alone, from a
border on, and leaves the earlier ones to the network of the first stage, which
is the run's teacher and does not change. A part of the batch is exactly at the
border, whose steps end where that network answers.

The numbers are those of the authors' command for CIFAR-10
(github.com/NVlabs/TCM).
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.errors import ConfigError
from scm_jax.objectives import (
  consistency,
  derivatives,
  diagnostics,
  jumps,
  spec,
)
from scm_jax.objectives.point import Point
from scm_jax.objectives.spec import Student
from scm_jax.objectives.tangent import Jump
from scm_jax.objectives.velocity import Velocity

_POINTS = 1024  # of the table of a law's distribution function


@dataclasses.dataclass(frozen=True)
class Options(consistency.EasyOptions):
  """Options of the second stage of TCM.

  `P_mean` and `P_std` have no effect.

  Attributes:
    border: the noise level from which on the student is trained.
    border_share: the part of the samples at the border.
    border_weight: the weight of their mean loss beside the mean of the others.
    late_mean, late_std, late_degrees: location, scale and degrees of freedom of
      the Student's t distribution of `ln sigma`, cut off at the border and at
      the largest noise level.
  """

  # The first stage ends with steps of a thousandth (`--ratio_limit 0.999`), and
  # the second goes on with them.
  derivative: Literal["easy"] = "easy"
  ends: Literal["zero"] = "zero"
  easy_base: float = 1000.0
  easy_stage: int = 0
  border: float = 1.0
  border_share: float = 0.25
  border_weight: float = 0.1
  late_mean: float = 0.0
  late_std: float = 0.2
  late_degrees: float = 0.01

  def __post_init__(self) -> None:
    """Raises ConfigError for jumps that do not end at data."""
    super().__post_init__()
    if self.two_times:
      raise ConfigError(
        f"equal_share is {self.equal_share}, but all jumps of TCM end at data; "
        "set it to 0"
      )

  @property
  def border_time(self) -> Array:
    """The time of the border, in radians."""
    return trigflow.sigma_to_time(self.border, self.sigma_d)

  def prior(self, error: Array, jump: Jump) -> Array:
    """Returns errors `[B]` with the prior weights, of the border too."""
    share = self.border_share
    at_border = self.border_weight * (1 - share) / share if share else 1.0
    late = jump.t > self.border_time
    return super().prior(error, jump) * jnp.where(late, 1.0, at_border)


def draw(key: Array, count: int, options: Options) -> dict[str, Array]:
  """Draws times from the border on, a part of them at the border."""
  key, share_key = jax.random.split(jax.random.fold_in(key, 4))
  sigma = jnp.exp(late(jax.random.uniform(key, (count,)), options))
  at_border = jax.random.bernoulli(share_key, options.border_share, (count,))
  t = trigflow.sigma_to_time(sigma, options.sigma_d)
  border = options.border_time
  return {"t": jnp.where(at_border, border, jnp.maximum(t, border))}


def late(part: Array, options: Options) -> Array:
  """Returns quantiles of the truncated t distribution of `ln sigma`.

  With `n` degrees of freedom, `x = sqrt(n) sinh(u)` has a density in `u`
  proportional to `cosh(u)^-n`, which is nearly even where `n` is small. So a
  table over even steps of `u` is accurate however heavy the tail is. `part` is
  the probabilities, of any shape.
  """
  scale = options.late_std * math.sqrt(options.late_degrees)
  bounds = math.log(options.border), math.log(trigflow.SIGMA_MAX)
  low, high = (math.asinh((x - options.late_mean) / scale) for x in bounds)
  u = jnp.linspace(low, high, _POINTS)
  density = jnp.cosh(u) ** -options.late_degrees
  below = jnp.cumsum((density[1:] + density[:-1]) / 2)
  below = jnp.concatenate([jnp.zeros(1), below / below[-1]])
  return options.late_mean + scale * jnp.sinh(jnp.interp(part, below, u))


def loss(
  student: Student,
  params: Any,
  point: Point,
  velocity: Velocity | None,
  options: Options,
  step: Array | float,
) -> tuple[Array, dict[str, Any]]:
  """Computes ECT's loss with the first stage's network below the border.

  The arguments and the result are those of `consistency.loss`; `velocity` is
  `sigma_d F` of the first stage's network.
  """
  assert velocity is not None
  t = derivatives.easy_successors(jumps.of(point, options), options, step)
  x0 = diagnostics.select(diagnostics.finite(point.x0), point.x0)
  x_t = trigflow.interpolate(x0, point.z, t)
  earlier = velocity(x_t, t, point.cond) / options.sigma_d
  earlier = jax.lax.stop_gradient(earlier)

  def below(F):
    # Only a step's end lies below the border, and there is but one.
    def both(params, u, t, cond):
      own = spec.evaluate(F, params, u, t, point._replace(cond=cond))
      return diagnostics.select(t < options.border_time, earlier, own)

    return both

  student = student._replace(
    F=below(student.F),
    tangent_F=student.tangent_F and below(student.tangent_F),
  )
  return consistency.loss(student, params, point, None, options, step)


TCM = dataclasses.replace(
  consistency.ECT,
  label="TCM",
  color="#661100",
  marker=">",
  description="a consistency model, truncated to late times (TCM)",
  options=Options,
  loss=loss,
  draw=draw,
  # Two steps meet just above the border, below which it is not trained.
  sample={"t_mid": 1.11},
  asks_teacher=spec.always,
  teacher_kind="consistency",
  tangent=None,
)
