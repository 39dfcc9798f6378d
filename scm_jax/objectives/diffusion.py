"""The TrigFlow diffusion objective (Equation 4 with Equation 25's weighting).

`e^w(t) / D ||sigma_d F(x_t / sigma_d, t) - v_t||^2 - w(t)`, which is EDM2's
uncertainty weighting with `w` for minus the log-variance.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.objectives import diagnostics, spec, teacher_path, weighting
from scm_jax.objectives.point import Point
from scm_jax.objectives.spec import Spec, Student
from scm_jax.objectives.velocity import Velocity


@dataclasses.dataclass(frozen=True)
class Options(spec.Options):
  """Options of the diffusion objective.

  Attributes:
    target: the velocity that is learnt: `data`, the sample's own (Equation 4);
      or `teacher`, that of `config.teacher`, which adapts a network to another
      form.
  """

  target: Literal["data", "teacher"] = "data"


def loss(
  student: Student,
  params: Any,
  point: Point,
  velocity: Velocity | None,
  options: Options,
  step: Array | float,
) -> tuple[Array, dict[str, Any]]:
  """Computes the loss of one batch and its metrics.

  Without a teacher's velocity it learns from the data.

  Returns:
    A scalar and a dict of sums and counts (see `diagnostics`), and `valid`
    `[B]`. A sample whose data, target or output is not finite is left out of
    the loss and of the metrics, and counted. Its data and its target cannot
    spoil the gradient. But if its output overflows inside of `F`, the entries
    of the gradient that depend on it become NaN: zero times infinity.
  """
  del step
  point, velocity = teacher_path.follow(point, velocity, options)
  x0, z, t, sigma_d = point.x0, point.z, point.t, options.sigma_d
  valid = diagnostics.finite(x0)
  x0 = diagnostics.select(valid, x0)
  x_t = trigflow.interpolate(x0, z, t)
  if velocity is None:
    target = trigflow.data_velocity(x0, z, t)
  else:
    target = jax.lax.stop_gradient(velocity(x_t, t, point.cond))
    valid &= diagnostics.finite(target)
  output = spec.evaluate(student.F, params, x_t / sigma_d, t, point)
  valid &= diagnostics.finite(output)
  output = diagnostics.select(valid, output)
  squares = jnp.square(sigma_d * output - diagnostics.select(valid, target))
  mse = squares.mean(axis=tuple(range(1, squares.ndim)))
  log_weight = weighting.log_weight(student, params, options, t)
  scale = weighting.UNITS[options.weighting_unit](x0.shape[1:])
  total, per_sample = weighting.weigh(mse, log_weight, valid, scale)
  return total, jax.lax.stop_gradient(
    {
      "loss": total,
      "mse": diagnostics.mean(valid, mse),
      "output_rms": diagnostics.rms(valid, output),
      "nonfinite_samples": jnp.sum(~valid),
      "valid": valid,
      "by_time": diagnostics.by_time(t, valid, loss=per_sample, mse=mse),
    }
  )


TEACHER = Spec(
  label="teacher",
  color="#333333",
  marker="s",
  description="a TrigFlow diffusion model",
  kind="diffusion",
  options=Options,
  loss=loss,
  asks_teacher=lambda options: options.target == "teacher",
)
