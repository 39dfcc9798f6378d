"""sCD with variational score distillation (sCM, Section 5.3; VSD).

Distillation follows trajectories; distribution matching compares the noisy
samples that the student draws with those that the teacher would. A critic, a
diffusion model that starts as the teacher, learns the velocity of the student's
samples. Where the teacher's velocity differs from it, the student's output is
moved along the difference, which descends the divergence of the student's
distribution from the teacher's.

The paper weighs this loss by a second head; here the difference is normalised
as tangents are, which is of unit size for data of any dimension as well.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax import trigflow
from scm_jax.objectives import consistency, diagnostics, diffusion, jumps, spec
from scm_jax.objectives.point import Point
from scm_jax.objectives.spec import ExtraNetwork, Student
from scm_jax.objectives.velocity import Velocity

CRITIC = "critic"


@dataclasses.dataclass(frozen=True)
class Options(consistency.Options):
  """Options of sCD with distribution matching; the defaults are the paper's.

  Attributes:
    matching_weight: the weight of the matching loss beside sCD's.
    matching_mean, matching_std: of `ln sigma`, for the times at which samples
      are compared.
    critic_mean, critic_std: of `ln sigma`, for the critic's times.
    rollout: the most steps by which a sample is drawn in training; each sample
      takes one of `1, ..., rollout`, and the gradient goes through the last.
  """

  matching_weight: float = 1.0
  matching_mean: float = 0.4
  matching_std: float = 2.0
  critic_mean: float = -0.8
  critic_std: float = 1.6
  rollout: int = 1


def draw(key: Array, count: int, options: Options) -> dict[str, Array]:
  """Draws sCD's times, and those of samples, of the critic and of rollouts."""
  keys = jax.random.split(jax.random.fold_in(key, 2), 5)
  law = lambda mean, std: (mean, std, options.sigma_d)
  matching = law(options.matching_mean, options.matching_std)
  critic = law(options.critic_mean, options.critic_std)
  own = law(options.P_mean, options.P_std)
  extra = (options.rollout - 1) * count
  times = trigflow.propose_times(keys[3], extra, *own).reshape(count, -1)
  return jumps.draw(key, count, options) | {
    "matching_t": trigflow.propose_times(keys[0], count, *matching),
    "critic_t": trigflow.propose_times(keys[1], count, *critic),
    "noise_key": jax.random.split(keys[2], count),
    "rollout_t": -jnp.sort(-times, axis=1),
    "rollout_steps": jax.random.randint(keys[4], (count,), 0, options.rollout),
  }


def loss(
  student: Student,
  params: Any,
  point: Point,
  velocity: Velocity | None,
  options: Options,
  step: Array | float,
) -> tuple[Array, dict[str, Any]]:
  """Computes sCD's loss, the matching loss and the critic's.

  The arguments and the result are those of `consistency.loss`. No gradient
  passes from the critic's loss to the student or from the others to the critic.
  """
  assert velocity is not None
  total, metrics = consistency.loss(
    student, params, point, velocity, options, step
  )
  noise = functools.partial(fresh_noise, point, options.sigma_d)
  x_t, t = rolled_out(student, params, point, noise, options)
  output = spec.evaluate(student.F, params, x_t / options.sigma_d, t, point)
  drawn = trigflow.denoise(output, x_t, t, options.sigma_d)
  drawn = jax.lax.stop_gradient(drawn)
  g = difference(
    student.extra[CRITIC],
    jax.lax.stop_gradient(params[CRITIC]),
    point._replace(x0=drawn, z=noise(0), t=point.drawn["matching_t"]),
    velocity,
    options,
  )
  valid = metrics["valid"] & diagnostics.finite(output, g)
  matching, size = matching_loss(output, g, valid, options)
  critic, seen = diffusion.loss(
    student.extra[CRITIC],
    params[CRITIC],
    point._replace(
      x0=diagnostics.select(valid, drawn, jnp.nan),  # which it leaves out
      z=noise(1),
      t=point.drawn["critic_t"],
    ),
    None,
    diffusion.Options(options.sigma_d, weighting_unit=options.weighting_unit),
    step,
  )
  total += options.matching_weight * matching + critic
  metrics |= jax.lax.stop_gradient(
    {
      "loss": total,
      "matching_norm": size,
      "critic_loss": critic,
      "critic_mse": seen["mse"],
      "valid": valid,
      "nonfinite_samples": jnp.sum(~valid),
    }
  )
  return total, metrics


def fresh_noise(point: Point, sigma_d: float, i: int) -> Array:
  """Draws the batch's noise of the number `i`, `[B, ...]`."""
  keys = jax.vmap(jax.random.fold_in, (0, None))(point.drawn["noise_key"], i)
  normal = jax.vmap(lambda key: jax.random.normal(key, point.z.shape[1:]))
  return sigma_d * normal(keys)


def matching_loss(
  output: Array, g: Array, valid: Array, options: Options
) -> tuple[Array, Array]:
  """Returns the loss that moves outputs along `g`, and the mean norm of `g`."""
  g = diagnostics.select(valid, g)
  output = diagnostics.select(valid, output)
  size = diagnostics.norms(g)
  g = g / trigflow.expand(size + options.tangent_c, g)
  error = jnp.square(output - jax.lax.stop_gradient(output + g))
  per_sample = error.sum(tuple(range(1, error.ndim)))
  return diagnostics.mean(valid, per_sample), diagnostics.mean(valid, size)


def rolled_out(
  student: Student, params: Any, point: Point, noise: Any, options: Options
) -> tuple[Array, Array]:
  """Returns what the last step of each sample's sampler begins with.

  Samplers start from the batch's noise; `noise(i)` is fresh noise `[B, ...]`.

  Returns:
    `x_t`, `[B, ...]`, and the times `[B]`, without gradient.
  """
  sigma_d, fixed = options.sigma_d, jax.lax.stop_gradient(params)
  t = jnp.full_like(point.t, trigflow.max_time(sigma_d))
  x_t = point.z
  for i in range(options.rollout - 1):
    output = spec.evaluate(student.F, fixed, x_t / sigma_d, t, point)
    x0 = trigflow.denoise(output, x_t, t, sigma_d)
    after = point.drawn["rollout_t"][:, i]
    further = i < point.drawn["rollout_steps"]
    noised = trigflow.interpolate(x0, noise(2 + i), after)
    x_t = diagnostics.select(further, noised, x_t)
    t = jnp.where(further, after, t)
  return jax.lax.stop_gradient(x_t), t


def difference(
  critic: Student,
  params: Any,
  point: Point,
  velocity: Velocity,
  options: Options,
) -> Array:
  """Returns `F_pre - F_critic` at noisy samples, `[B, ...]`, without gradient.

  The point has the student's samples, with noise and times.
  """
  x_t = trigflow.interpolate(point.x0, point.z, point.t)
  wanted = velocity(x_t, point.t, point.cond) / options.sigma_d
  own = spec.evaluate(critic.F, params, x_t / options.sigma_d, point.t, point)
  return jax.lax.stop_gradient(wanted - own)


SCD_VSD = dataclasses.replace(
  consistency.SCD,
  label="sCD+VSD",
  color="#332288",
  marker="*",
  description="a consistency model distilled with distribution matching",
  options=Options,
  loss=loss,
  draw=draw,
  forwards=lambda options: options.forwards + options.rollout,
  extra={
    CRITIC: ExtraNetwork(
      network=lambda config: dataclasses.replace(
        config, guidance=False, target=False, weighting="fourier"
      )
    )
  },
)
