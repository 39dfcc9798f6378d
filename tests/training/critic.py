"""An objective with a second network: sCD, and a critic of its samples.

The critic learns the diffusion loss on what the student draws in one step, as
those of distribution matching do. Nothing flows back to the student, so that it
trains as sCD's to the bit.
"""

import dataclasses

import jax
import jax.numpy as jnp

from scm_jax import objectives
from scm_jax.objectives import ExtraNetwork, consistency, diffusion, spec


@dataclasses.dataclass(frozen=True)
class Options(consistency.Options):
  """Options of sCD, and the critic's learning rate."""

  critic_learning_rate: float = 1e-3


def draw(key, count, options):
  """Draws the times of sCD, and a time and a random key for the critic."""
  critic = spec.draw_times(jax.random.fold_in(key, 1), count, options)
  keys = jax.random.split(jax.random.fold_in(key, 2), count)
  drawn = spec.draw_times(key, count, options)
  return drawn | {"critic_t": critic["t"], "critic_key": keys}


def loss(student, params, point, velocity, options, step):
  """Adds the critic's loss to that of sCD."""
  total, metrics = consistency.loss(
    student, params, point, velocity, options, step
  )
  t = jnp.full_like(point.t, jnp.pi / 2)
  output = spec.evaluate(student.F, params, point.z / options.sigma_d, t, point)
  x0 = jax.lax.stop_gradient(-options.sigma_d * output)
  noise = lambda key: options.sigma_d * jax.random.normal(key, x0.shape[1:])
  fake = point._replace(
    x0=x0,
    z=jax.vmap(noise)(point.drawn["critic_key"]),
    t=point.drawn["critic_t"],
  )
  own, seen = diffusion.loss(
    student.extra["critic"], params["critic"], fake, None, options, step
  )
  return total + own, metrics | {"critic_loss": seen["loss"]}


CRITIC = dataclasses.replace(
  objectives.OBJECTIVES["scd"],
  options=Options,
  draw=draw,
  loss=loss,
  extra={
    "critic": ExtraNetwork(
      network=lambda config: dataclasses.replace(config, guidance=False),
      optimizer=lambda o: {"learning_rate": o.critic_learning_rate},
    )
  },
)
