"""A student of a teacher in closed form learns where trajectories end.

Data is a mixture of three Gaussians in the plane, whose velocity is known
exactly. The student, trained by the sCM loss alone, has to map noise to where
an accurate solver of the ODE takes it, in one step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scm_jax import trigflow
from scm_jax.networks import layers
from scm_jax.objectives import Point, Student, consistency

SIGMA_D = 0.5
WIDTH, FEATURES, BATCH, STEPS = 64, 32, 256, 3000
OPTIONS = consistency.Options(sigma_d=SIGMA_D, warmup_steps=500)

# Three modes on a circle, with the radius that makes the data's standard
# deviation sigma_d.
MODE_STD = 0.25
RADIUS = (2 * (SIGMA_D**2 - MODE_STD**2)) ** 0.5
ANGLES = 2 * np.pi * np.arange(3) / 3
MEANS = RADIUS * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


# Running these takes longer than compiling them.
pytestmark = pytest.mark.optimized


@pytest.fixture(autouse=True)
def float64():
  """Leaves float32 on, in the folder's fixture's place."""


def velocity(x_t, t, cond):
  """`E[cos(t) z - sin(t) x0 | x_t]`, `x_t` `[B, 2]`."""
  del cond
  cos, sin = jnp.cos(t)[:, None], jnp.sin(t)[:, None]
  variance = (cos * MODE_STD) ** 2 + (sin * SIGMA_D) ** 2
  from_modes = x_t[:, None] - cos[..., None] * MEANS
  logits = -jnp.sum(from_modes**2, -1) / (2 * variance)
  share = jax.nn.softmax(logits, -1)
  residual = jnp.sum(share[..., None] * from_modes, 1) / variance
  x0 = share @ MEANS + cos * MODE_STD**2 * residual
  z = sin * SIGMA_D**2 * residual
  return cos * z - sin * x0


def init(key):
  sizes = [2 + FEATURES, WIDTH, WIDTH, WIDTH, 2]
  keys = jax.random.split(key, 4)
  draw = lambda key, n, m: jax.random.normal(key, (n, m)) / n**0.5
  weights = list(map(draw, keys, sizes[:-1], sizes[1:]))
  weights[-1] *= 0
  return {
    "layers": [(weight, jnp.zeros(weight.shape[1])) for weight in weights],
    "w": jnp.zeros(FEATURES),
  }


def F(params, u, t, cond):
  del cond
  h = jnp.concatenate([u, layers.positional_features(t, FEATURES)], -1)
  for weight, bias in params["layers"][:-1]:
    h = jax.nn.silu(h @ weight + bias)
  weight, bias = params["layers"][-1]
  return h @ weight + bias


def w(params, t):
  return layers.positional_features(t, FEATURES) @ params["w"]


def train():
  """The student's parameters; the whole run is one program."""
  schedule = optax.cosine_decay_schedule(2e-3, STEPS)
  optimizer = optax.adam(schedule, b2=0.99, eps=1e-11)

  def step(carry, i):
    params, state = carry
    keys = jax.random.split(jax.random.fold_in(jax.random.key(1), i), 4)
    mode = jax.random.randint(keys[0], (BATCH,), 0, 3)
    x0 = MODE_STD * jax.random.normal(keys[1], (BATCH, 2))
    x0 += jnp.asarray(MEANS, jnp.float32)[mode]
    z = SIGMA_D * jax.random.normal(keys[2], (BATCH, 2))
    t = trigflow.propose_times(keys[3], BATCH, -0.8, 1.6, SIGMA_D)

    def loss(params):
      return consistency.loss(
        Student(F, w), params, Point(x0, z, t), velocity, OPTIONS, i
      )[0]

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return (optax.apply_updates(params, updates), state), None

  @jax.jit
  def run():
    params = init(jax.random.key(0))
    carry = params, optimizer.init(params)
    return jax.lax.scan(step, carry, jnp.arange(STEPS))[0][0]

  return run()


def solve(x, start):
  """The ends of the trajectories from `x`: Runge-Kutta of 4th order, f64."""
  steps = 1000
  h = -start / steps
  slope = lambda x, t: velocity(x, jnp.full(len(x), t), {})

  @jax.jit
  def run(x):
    def step(i, x):
      t = start + i * h
      a = slope(x, t)
      b = slope(x + h / 2 * a, t + h / 2)
      c = slope(x + h / 2 * b, t + h / 2)
      d = slope(x + h * c, t + h)
      return x + h / 6 * (a + 2 * b + 2 * c + d)

    return jax.lax.fori_loop(0, steps, step, x)

  return run(x)


@pytest.mark.slow
def test_one_step_of_the_student_is_the_solution_of_the_ode():
  start = trigflow.max_time(SIGMA_D)
  noise = SIGMA_D * np.random.default_rng(0).normal(size=(4096, 2))
  with jax.enable_x64(True):
    ends = np.asarray(solve(jnp.asarray(noise), start))
  # The solver's own check: its ends have the data's standard deviation.
  np.testing.assert_allclose(ends.std(), SIGMA_D, rtol=0.02)

  noise = jnp.asarray(noise, jnp.float32)
  t = jnp.full(len(noise), start)

  def error(output):
    one_step = trigflow.denoise(output, noise, t, SIGMA_D)
    return np.mean((one_step - ends) ** 2) / ends.var()

  assert error(velocity(noise, t, {}) / SIGMA_D) > 0.5  # the teacher's step
  student = error(F(train(), noise / SIGMA_D, t, {}))
  assert student < 0.01
