"""Trains and distils a network of your own, written in plain jax.numpy.

The data are points on a spiral in the plane. A teacher learns to denoise them;
a student, which starts as the teacher, learns to jump to the end of its path.
"""

from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

from scm_jax import OBJECTIVES, Point, Student, samplers, velocity

SHAPES = (34, 128), (128, 128), (128, 128), (128, 2)


def F(params, x, t, cond):
  """The network: noisy points over sigma_d [B, 2] and times [B], radians."""
  waves = t[:, None] * 10 ** -jnp.linspace(0, 2, 16)
  h = jnp.concatenate([x, jnp.cos(waves), jnp.sin(waves)], axis=1)
  for weight in params[:-1]:
    h = jax.nn.silu(h @ weight)
  return h @ params[-1]


def draw_data(key, count=512):
  radius = jnp.sqrt(jax.random.uniform(key, (count, 1)))
  return radius * jnp.hstack([jnp.cos(9 * radius), jnp.sin(9 * radius)])


def train(objective, params, steps, teacher=None, **options):
  spec = OBJECTIVES[objective]
  options = spec.options(adaptive_weighting=False, **options)
  optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

  def update(carry, step):
    params, state = carry
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), 3)
    x0 = draw_data(keys[0])
    z = options.sigma_d * jax.random.normal(keys[1], x0.shape)
    point = Point(x0, z, **spec.draw(keys[2], len(x0), options))
    loss = lambda p: spec.loss(Student(F), p, point, teacher, options, step)
    gradient, _ = jax.grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradient, state)
    return (optax.apply_updates(params, updates), state), None

  start = params, optimizer.init(params)
  return jax.jit(lambda: jax.lax.scan(update, start, jnp.arange(steps)))()[0][0]


def main(path="own_network.png", steps=5000):
  keys = jax.random.split(jax.random.key(1), 3)
  params = [jax.random.normal(keys[0], s) / s[0] ** 0.5 for s in SHAPES]
  params = train("teacher", params, steps)
  teacher = velocity.from_network(partial(F, params), sigma_d=0.5)
  params = train("scd", params, steps, teacher, warmup_steps=steps // 10)
  noise = jax.random.normal(keys[1], (1, 2000, 2))
  times = samplers.consistency_times(1, sigma_d=0.5)
  student = samplers.consistency(partial(F, params), noise, {}, times, 0.5)
  plt.plot(*draw_data(keys[2], 2000).T, ".", label="data")
  plt.plot(*student[0].T, ".", label="student, one evaluation a point")
  plt.legend()
  plt.savefig(path)


if __name__ == "__main__":
  main()
