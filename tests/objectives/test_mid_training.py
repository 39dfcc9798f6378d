"""Mid-training: trajectories, what is learnt on them, and what leaves it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import samplers, trigflow
from scm_jax.objectives import Point, Student, mid_training

C = 0.3  # the deviation of data that are normal, where all is known
SIGMA_D = 0.5
STEPS = 16
ENDS = ("zero", "path")


def spread(t):
  """The deviation of `x_t` on data of deviation `C`."""
  return jnp.sqrt((jnp.cos(t) * C) ** 2 + (jnp.sin(t) * SIGMA_D) ** 2)


def velocity(x_t, t, cond):
  """That of the exact trajectories, on which `x_t / spread(t)` is constant."""
  del cond
  slope = jnp.cos(t) * jnp.sin(t) * (SIGMA_D**2 - C**2) / spread(t) ** 2
  return trigflow.expand(slope, x_t) * x_t


def exact_F(params, u, t, cond):
  """The network of the exact jumps, and others at a tilt."""
  s = cond.get("target", jnp.zeros_like(t))
  slope = (jnp.cos(t - s) - spread(s) / spread(t)) / jnp.sin(t - s)
  return u * trigflow.expand(slope + params["tilt"] * jnp.sin(t - s), u)


def batch(options, count=64, shape=(2, 3)):
  rng = np.random.default_rng(0)
  z = SIGMA_D * jnp.asarray(rng.normal(size=(count, *shape)))
  drawn = mid_training.draw(jax.random.key(1), count, options)
  t = drawn.pop("t")
  return Point(jnp.zeros_like(z), z, t, drawn=drawn)


def test_a_solver_with_equal_times_is_the_samplers():
  times = mid_training.times(jnp.zeros(64), STEPS, SIGMA_D)
  point = batch(mid_training.Options())
  field = lambda x, t, cond: jnp.sin(3 * x) * trigflow.expand(jnp.cos(t), x)
  states = jax.jit(lambda z: mid_training.solve(field, z, {}, times))(point.z)
  F = lambda u, t, cond: field(SIGMA_D * u, t, cond) / SIGMA_D
  end, path = jax.jit(
    lambda z: samplers.dpm_solver(F, z, {}, times[:, 0], SIGMA_D)
  )(point.z / SIGMA_D)
  np.testing.assert_allclose(states[:, -1], end, rtol=1e-9)
  found = jnp.moveaxis(states[:, :-1], 1, 0)
  np.testing.assert_allclose(found, path.x_t, rtol=1e-9)


def test_it_is_of_second_order():
  """Twice the steps leave a quarter of the error of the ends."""

  def error(steps):
    shift = jnp.linspace(-0.5, 0.5, 8)
    times = mid_training.times(shift, steps, SIGMA_D)
    solve = jax.jit(lambda z: mid_training.solve(velocity, z, {}, times))
    states = solve(jnp.ones((8, 1)))[..., 0]
    exact = spread(times.T) / spread(times[:1].T)
    return float(jnp.abs(states - exact).max())

  assert 3.5 < error(64) / error(128) < 4.5


def test_the_times_of_all_trajectories_together_leave_no_gap():
  shift = jnp.linspace(-0.5, 0.5, 101)
  times = np.asarray(mid_training.times(shift, STEPS, SIGMA_D))
  assert np.all(np.diff(times, axis=0) < 0)
  np.testing.assert_allclose(SIGMA_D * np.tan(times[0]), trigflow.SIGMA_MAX)
  np.testing.assert_allclose(times[-1], 0)
  steps = np.diff(np.sort(np.log(np.tan(times[1:-1])), axis=None))
  whole = np.log(trigflow.SIGMA_MAX / mid_training.SIGMA_MIN) / (STEPS - 1)
  assert np.max(steps) < whole / 90


def value_and_slopes(point, options, field, F):
  """The loss and its derivative at tilts of -0.1, 0 and 0.1."""

  @jax.jit
  @jax.vmap
  @jax.value_and_grad
  def value(tilt):
    student, params = Student(F), {"tilt": tilt}
    return mid_training.loss(student, params, point, field, options, 0)[0]

  return value(jnp.array([-0.1, 0.0, 0.1]))


@pytest.mark.parametrize("ends", ENDS)
def test_the_exact_map_is_the_minimum(ends):
  """On normal data, with a solver of steps as fine as its order needs."""
  options = mid_training.Options(
    path_steps=256, ends=ends, adaptive_weighting=False
  )
  values, slopes = value_and_slopes(
    batch(options, count=16), options, velocity, exact_F
  )
  assert max(values[1] / values[::2]) < 0.05
  assert slopes[0] < 0 < slopes[2] and abs(slopes[1]) < 0.02 * slopes[2]


@pytest.mark.parametrize("distance", mid_training.DISTANCES)
@pytest.mark.parametrize("ends", ENDS)
def test_and_exactly_where_the_solver_is_exact(ends, distance):
  """On a single image, to which all trajectories lead."""
  options = mid_training.Options(
    path_steps=4, ends=ends, distance=distance, adaptive_weighting=False
  )
  image = 0.7

  def field(x_t, t, cond):
    t = trigflow.expand(t, x_t)
    return (jnp.cos(t) * x_t - image) / jnp.sin(t)

  def F(params, u, t, cond):
    s = cond.get("target", jnp.zeros_like(t))
    t, s = (trigflow.expand(x, u) for x in (t, s))
    x_t = SIGMA_D * u
    end = (jnp.sin(s) * x_t + jnp.sin(t - s) * image) / jnp.sin(t)
    exact = (jnp.cos(t - s) * x_t - end) / (SIGMA_D * jnp.sin(t - s))
    return exact + params["tilt"] * u

  values, slopes = value_and_slopes(batch(options), options, field, F)
  assert abs(values[1]) < 1e-12 and abs(slopes[1]) < 1e-9
  assert min(values[::2]) > 1e-4 and slopes[0] < 0 < slopes[2]


@pytest.mark.parametrize("ends", ENDS)
def test_the_loss_is_the_mean_over_pairs_of_states(mlp, ends):
  """Each jump by the formula of the map, with the network's log-weight."""
  options = mid_training.Options(path_steps=3, ends=ends)
  drawn = mid_training.draw(jax.random.key(1), 4, options)
  point = mlp.point._replace(t=drawn.pop("t"), rngs=None, drawn=drawn)

  def F(params, u, t, cond):
    turn = trigflow.expand(jnp.cos(cond.get("target", 0 * t)), u)
    return mlp.F(params, u * turn, t, cond)

  w = lambda params, t, s=0.0: mlp.w(params, t) * jnp.cos(s)

  @jax.jit
  def ours():
    student = Student(F, w)
    return mid_training.loss(
      student, mlp.params, point, mlp.velocity, options, 0
    )

  @jax.jit
  def theirs():
    times = mid_training.times(drawn["shift"], 3, SIGMA_D)
    states = mid_training.solve(mlp.velocity, point.z, point.cond, times)
    losses, errors = [], []
    for begin in range(3):
      end = jnp.full(4, 3)
      if ends == "path":
        end = begin + 1 + jnp.int32(drawn["end"][:, begin] * (3 - begin))
      t, s = times[begin], times[end, jnp.arange(4)]
      x_t, x_s = states[:, begin], states[jnp.arange(4), end]
      cond = {"label": point.cond["label"]}
      cond |= {"target": s} if ends == "path" else {}
      f = trigflow.denoise(
        F(mlp.params, x_t / SIGMA_D, t, cond), x_t, t - s, SIGMA_D
      )
      error = jnp.mean((f - x_s) ** 2, (1, 2, 3))
      squares, weight = (
        error / (SIGMA_D * jnp.sin(t - s)) ** 2,
        w(mlp.params, t, s),
      )
      errors.append(error)
      losses.append(jnp.exp(weight) * squares - weight)
    return jnp.mean(jnp.stack(losses)), jnp.mean(jnp.stack(errors))

  total, metrics = ours()
  np.testing.assert_allclose((total, metrics["mse"]), theirs(), rtol=1e-9)
  assert metrics["by_time"]["count"].sum() == 12


def test_each_state_of_a_trajectory_has_a_dropout_of_its_own(mlp):
  options = mid_training.Options(path_steps=4, adaptive_weighting=False)
  drawn = mid_training.draw(jax.random.key(1), 4, options)
  keys = jax.random.split(jax.random.key(5), 4)
  point = mlp.point._replace(
    t=drawn.pop("t"), rngs={"dropout": keys}, drawn=drawn
  )
  seen = []

  def F(params, u, t, cond, *, rngs, train):
    assert train
    draw = jax.vmap(lambda key: jax.random.uniform(jax.random.clone(key)))
    jax.debug.callback(
      lambda x: seen.append(np.asarray(x)), draw(rngs["dropout"])
    )
    return u

  @jax.jit
  def run():
    student = Student(F)
    return mid_training.loss(student, {}, point, velocity, options, 0)[0]

  jax.block_until_ready(run())
  jax.effects_barrier()
  assert len(np.unique(np.stack(seen))) == 16


def test_a_trajectory_that_is_not_finite_is_left_out():
  options = mid_training.Options(path_steps=4, adaptive_weighting=False)
  whole = batch(options, count=4)
  spoilt = whole._replace(
    x0=whole.x0.at[1].set(jnp.nan), z=whole.z.at[2].set(jnp.inf)
  )
  few = jax.tree.map(lambda x: x[jnp.array([0, 3, 0, 3])], whole)

  @jax.jit
  def value(point):
    loss = lambda params: mid_training.loss(
      Student(exact_F), params, point, velocity, options, 0
    )
    return jax.value_and_grad(loss, has_aux=True)({"tilt": 0.2})

  (found, metrics), grads = value(spoilt)
  (expected, _), expected_grads = value(few)
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  np.testing.assert_allclose(grads["tilt"], expected_grads["tilt"], rtol=1e-12)
  assert metrics["valid"].tolist() == [True, False, False, True]
  assert metrics["nonfinite_samples"] == 2
