"""Where the tangent vanishes if the velocity is that of skewed data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scm_jax import trigflow
from scm_jax.errors import ConfigError
from scm_jax.objectives import Point, Student, consistency

T, SIGMA_D, STEPS = 1.1, 0.5, 600


def learnt(norm, point):
  """What a network learns whose output is the same for all samples.

  The warm-up has not begun, so that it is the mean of the velocities.
  """
  options = consistency.Options(tangent_norm=norm)
  student = Student(
    lambda params, u, t, cond: jnp.broadcast_to(params["F"], u.shape),
    lambda params, t: params["w"] + 0 * t,
  )
  schedule = optax.cosine_decay_schedule(0.05, STEPS)
  optimizer = optax.adam(schedule, b2=0.99)

  def step(carry, _):
    params, state = carry
    grads = jax.grad(
      lambda params: consistency.loss(student, params, point, None, options, 0)[
        0
      ]
    )(params)
    updates, state = optimizer.update(grads, state)
    return (optax.apply_updates(params, updates), state), None

  @jax.jit
  def run():
    params = {"F": jnp.zeros(point.x0.shape[1:]), "w": jnp.zeros(())}
    carry = params, optimizer.init(params)
    return jax.lax.scan(step, carry, None, STEPS)[0][0]["F"]

  return SIGMA_D * run()


def test_only_the_samples_own_norm_moves_the_mean():
  """On exponential data in three dimensions, in deviations of the velocity."""
  rng = np.random.default_rng(0)
  x0 = SIGMA_D * jnp.asarray(rng.exponential(size=(4096, 3)) - 1)
  z = SIGMA_D * jnp.asarray(rng.normal(size=(4096, 3)))
  point = Point(x0, z, jnp.full(4096, T))
  v = trigflow.data_velocity(x0, z, point.t)
  far = {
    norm: float(jnp.mean(learnt(norm, point) - v.mean(0)) / v.std())
    for norm in ("l2", "none", "expected")
  }
  assert far["l2"] > 0.05
  assert abs(far["none"]) < 0.002 and abs(far["expected"]) < 0.002


def test_expected_norms_give_each_time_the_same_part(mlp):
  """Gradients do not grow with the tangents, and the weight learns their size.

  With the weight that minimises its loss, the mean square is one.
  """
  options = consistency.Options(tangent_norm="expected", warmup_steps=0)

  def at(scale):
    velocity = lambda x, t, cond: scale * mlp.velocity(x, t, mlp.cond)
    one = jax.tree.map(lambda x: x, mlp.point)

    def loss(params, log_weight):
      student = Student(mlp.F, lambda params, t: log_weight)
      return consistency.loss(student, params, one, velocity, options, 1)[0]

    raw = consistency.raw_tangent(
      mlp.student, mlp.params, one, velocity, options, 1
    )
    best = -jnp.log(jnp.mean(raw**2, (1, 2, 3)))
    grads = jax.jit(jax.grad(loss, (0, 1)))(mlp.params, best)
    return optax.tree.norm(grads[0]), grads[1]

  (small, slope), (large, _) = at(100.0), at(10_000.0)
  np.testing.assert_allclose(slope, 0, atol=1e-9)
  assert large == pytest.approx(float(small), rel=0.1)


def test_it_needs_the_weight_that_expects():
  with pytest.raises(ConfigError, match="set adaptive_weighting to true"):
    consistency.Options(tangent_norm="expected", adaptive_weighting=False)
