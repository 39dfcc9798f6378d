"""The sCM loss: what it computes, where it is stationary, what it survives."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import trigflow
from scm_jax.cli import configs
from scm_jax.errors import ConfigError
from scm_jax.objectives import (
  consistency,
  derivatives,
  diagnostics,
  jumps,
  tangent,
)
from scm_jax.objectives.consistency import Options
from scm_jax.objectives.tangent import Jump
from scm_jax.training import resolve

PLAIN = Options(tangent_norm="none", adaptive_weighting=False)


def loss_of(problem, params=None, velocity=None, r=1.0, options=None):
  """Returns the loss where the warm-up is `r`, which one step would end."""
  options = dataclasses.replace(options or Options(), warmup_steps=1)

  @jax.jit
  def loss(params):
    return consistency.loss(
      problem.student, params, problem.point, velocity, options, r
    )

  return loss(problem.params if params is None else params)


def raw_g(problem, dx_dt, r=1.0):
  """The tangent of each sample before normalisation."""
  direction = problem.direction(dx_dt)
  F, dF = tangent.by_jvp(problem.primal, direction)
  return tangent.consistency_tangent(direction, F, dF, r)


def assert_trees_close(a, b, **tolerances):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **tolerances), a, b
  )


@pytest.mark.slow
def test_a_shared_forward_pass_equals_separate_ones(attention_unet):
  """Algorithm 1 written out with a pass for each thing that it needs."""
  p, r, c = attention_unet, 0.7, 0.1
  rngs = {"rngs": p.rngs, "train": True}
  cos, sin = (trigflow.expand(f(p.t), p.x0) for f in (jnp.cos, jnp.sin))
  x_t = cos * p.x0 + sin * p.z
  dx_dt = p.velocity(x_t, p.t, p.cond)
  u = x_t / p.sigma_d

  def separate(params):
    frozen = jax.lax.stop_gradient(params)
    network = lambda u, t: p.F(frozen, u, t, p.cond, **rngs)
    _, dF = jax.jvp(
      network,
      (u, p.t),
      (cos * sin * dx_dt / p.sigma_d, jnp.cos(p.t) * jnp.sin(p.t)),
    )
    F_minus = network(u, p.t)
    g = -(cos**2) * (p.sigma_d * F_minus - dx_dt)
    g -= r * (cos * sin * x_t + p.sigma_d * dF)
    norm = jnp.sqrt(jnp.sum(g**2, (1, 2, 3), keepdims=True))
    F = p.F(params, u, p.t, p.cond, **rngs)
    squares = jnp.mean((F - F_minus - g / (norm + c)) ** 2, (1, 2, 3))
    w = p.w(params, p.t)
    return jnp.mean(jnp.exp(w) * squares - w), jnp.mean(norm)

  def shared(params):
    value, metrics = loss_of(p, params, p.velocity, r)
    return value, metrics["tangent_norm"]

  (ours, our_norm), our_grads = jax.jit(
    jax.value_and_grad(shared, has_aux=True)
  )(p.params)
  (theirs, their_norm), their_grads = jax.jit(
    jax.value_and_grad(separate, has_aux=True)
  )(p.params)
  np.testing.assert_allclose(ours, theirs, rtol=1e-10)
  np.testing.assert_allclose(our_norm, their_norm, rtol=1e-10)
  assert max(np.abs(g).max() for g in jax.tree.leaves(our_grads)) > 1e-3
  assert_trees_close(our_grads, their_grads, rtol=1e-7, atol=1e-12)


def test_sct_takes_the_samples_own_velocity(mlp):
  own = trigflow.data_velocity(mlp.x0, mlp.z, mlp.t)
  sct, metrics = loss_of(mlp, r=0.3)
  scd, _ = loss_of(mlp, velocity=lambda x, t, cond: own, r=0.3)
  np.testing.assert_allclose(sct, scd, rtol=1e-12)
  norms = diagnostics.norms(raw_g(mlp, own, 0.3))
  np.testing.assert_allclose(metrics["tangent_norm"], norms.mean())
  _, other = loss_of(mlp, velocity=mlp.velocity, r=0.3)
  assert abs(other["tangent_norm"] - metrics["tangent_norm"]) > 1e-2


def test_at_the_start_of_the_warmup_it_is_velocity_matching(mlp):
  """The gradient is that of half the squared gap, weighted by cos(t)^2."""

  def matching(params):
    there = dataclasses.replace(mlp, params=params)
    F = there.primal(mlp.x_t / mlp.sigma_d, mlp.t)
    v = mlp.velocity(mlp.x_t, mlp.t, mlp.cond)
    gap = jnp.mean((mlp.sigma_d * F - v) ** 2, (1, 2, 3)) / mlp.sigma_d
    return jnp.mean(jnp.cos(mlp.t) ** 2 * gap)

  loss = lambda params: loss_of(mlp, params, mlp.velocity, 0.0, PLAIN)[0]
  grads, wanted = (jax.jit(jax.grad(f))(mlp.params) for f in (loss, matching))
  assert_trees_close(grads, wanted, rtol=1e-9, atol=1e-14)


# On data from N(0, c^2 I), all is known in closed form.
C = 0.3


def gaussian_F(params, u, t, cond, **kwargs):
  """Networks whose `f` is the consistency function at `c = C`, others 0."""
  del cond, kwargs
  sigma_d, c = 0.5, params["c"]
  cos, sin = (trigflow.expand(f(t), u) for f in (jnp.cos, jnp.sin))
  spread = jnp.sqrt((cos * c) ** 2 + (sin * sigma_d) ** 2)
  f = c / spread * u * sigma_d * (1 + params["tilt"] * sin)
  f += params["shift"] * sin
  return (cos * u * sigma_d - f) / (sin * sigma_d)


def gaussian_velocity(x_t, t, cond):
  del cond
  cos, sin = (trigflow.expand(f(t), x_t) for f in (jnp.cos, jnp.sin))
  variance = (cos * C) ** 2 + (sin * 0.5) ** 2
  return x_t * cos * sin * (0.5**2 - C**2) / variance


@pytest.mark.parametrize("kind", ["none", "l2", "rms", "clip"])
def test_the_exact_consistency_function_is_stationary(mlp, kind):
  problem = dataclasses.replace(mlp, F=gaussian_F, w=lambda params, t: 0 * t)
  options = Options(tangent_norm=kind)
  gradient = jax.jit(
    jax.grad(
      lambda p: loss_of(problem, p, gaussian_velocity, options=options)[0]
    )
  )
  exact = {"c": C, "tilt": 0.0, "shift": 0.0}
  for value in gradient(exact).values():
    assert abs(value) < 1e-13
  for name in exact:
    elsewhere = gradient(exact | {name: exact[name] + 0.1})
    assert max(abs(v) for v in elsewhere.values()) > 1e-3


def test_without_a_warm_up_the_first_tangent_is_whole(mlp):
  options = dataclasses.replace(PLAIN, warmup_steps=0)
  first, _ = consistency.loss(
    mlp.student, mlp.params, mlp.point, mlp.velocity, options, 0
  )
  warm, _ = loss_of(mlp, velocity=mlp.velocity, options=PLAIN, r=1.0)
  cold, _ = loss_of(mlp, velocity=mlp.velocity, options=PLAIN, r=0.0)
  np.testing.assert_allclose(first, warm, rtol=1e-12)
  assert abs(cold / warm - 1) > 1e-3


def test_reduction_and_prior_weight(mlp):
  """Without weighting the loss is the mean of `||g||^2 / D`."""
  g = raw_g(mlp, mlp.velocity(mlp.x_t, mlp.t, mlp.cond))
  squares = np.sum(np.square(g), (1, 2, 3))

  def value(**fields):
    options = dataclasses.replace(PLAIN, **fields)
    return loss_of(mlp, velocity=mlp.velocity, options=options)[0]

  np.testing.assert_allclose(value(), squares.mean() / 12)
  np.testing.assert_allclose(value(reduction="sum"), squares.mean())
  sigma = 0.5 * np.tan(mlp.t)
  np.testing.assert_allclose(
    value(prior_weight="inverse_sigma"), np.mean(squares / sigma) / 12
  )
  # A prior multiplies what MeanFlow's weight gives (FACM, arXiv 2507.03738).
  c_t = np.cos(mlp.t) + PLAIN.kappa * np.sin(mlp.t)
  own = squares / 12 * c_t**2
  np.testing.assert_allclose(
    value(prior_weight="inverse_sigma", error_power=0.5),
    np.mean(own / np.sqrt(own + PLAIN.error_floor) / sigma),
  )
  w = mlp.w(mlp.params, mlp.t)
  np.testing.assert_allclose(
    value(adaptive_weighting=True), np.mean(np.exp(w) * squares / 12 - w)
  )
  t = mlp.t[:, None, None, None]
  gap = 0.5 * mlp.primal(mlp.x_t / 0.5, mlp.t)
  gap -= mlp.velocity(mlp.x_t, mlp.t, mlp.cond)
  first = np.cos(t) * (np.sqrt(1 - 0.25 * np.sin(t) ** 2) - np.cos(t))
  half = raw_g(mlp, mlp.velocity(mlp.x_t, mlp.t, mlp.cond), 0.5)
  rcm, _ = loss_of(
    mlp,
    velocity=mlp.velocity,
    r=0.5,
    options=dataclasses.replace(PLAIN, warmup="variance_exact"),
  )
  np.testing.assert_allclose(rcm, np.mean((half - first * gap) ** 2))


def test_other_derivatives_approach_the_exact_one(mlp):
  # Times that are points of the grid, so that dsCD does not move them.
  steps = 100_000
  grid = jumps.time_grid(steps, 0.5)
  index = jnp.array([40_000, 60_000, 75_000, 95_000])
  problem = dataclasses.replace(mlp, t=grid[index])
  value = lambda **fields: float(
    loss_of(
      problem,
      velocity=mlp.velocity,
      options=Options(discrete_steps=steps, **fields),
    )[0]
  )
  exact = value()
  differences = value(derivative="finite_difference")
  assert differences != exact
  np.testing.assert_allclose(differences, exact, rtol=1e-5)
  discrete = value(derivative="discrete")
  assert discrete != exact
  np.testing.assert_allclose(discrete, exact, rtol=1e-3)


def test_discrete_times(mlp):
  grid = np.asarray(jumps.time_grid(18, 0.5))
  assert len(grid) == 19 and grid[0] == 0 and np.all(np.diff(grid) > 0)
  np.testing.assert_allclose(0.5 * np.tan(grid[1]), 0.002)
  np.testing.assert_allclose(0.5 * np.tan(grid[-1]), 80)
  between = (grid[4] + grid[5]) / 2
  asked = []

  def F(params, u, t, cond, **kwargs):
    asked.append(np.asarray(t))
    return u

  t = jnp.array([1e-9, between, grid[7], 1.5707])
  problem = dataclasses.replace(mlp, F=F, t=t)
  options = Options(derivative="discrete", discrete_steps=18)
  consistency.loss(
    problem.student, problem.params, problem.point, None, options, 1
  )
  there, following = asked
  np.testing.assert_array_equal(there, grid[[1, 5, 7, 18]])
  np.testing.assert_array_equal(following, grid[[0, 4, 6, 17]])


def test_metrics_by_time(mlp):
  t = jnp.array([0.05, 1.1, 1.15, 1.5])  # two share a bin
  problem = dataclasses.replace(mlp, t=t)
  dx_dt = problem.velocity(problem.x_t, t, problem.cond)
  g_norm = diagnostics.norms(raw_g(problem, dx_dt))
  _, dF_dt = jax.jvp(
    problem.primal,
    (problem.x_t / 0.5, t),
    (dx_dt / 0.5, jnp.ones(4)),
  )
  _, metrics = loss_of(problem, velocity=problem.velocity)
  bins = np.digitize(t, np.arange(1, 8) * math.pi / 16)
  expected = lambda values: np.bincount(bins, values, minlength=8)
  by_time = metrics["by_time"]
  np.testing.assert_allclose(by_time["count"], expected(np.ones(4)))
  np.testing.assert_allclose(by_time["tangent_norm"], expected(g_norm))
  np.testing.assert_allclose(
    by_time["dF_dt"], expected(diagnostics.norms(dF_dt))
  )
  np.testing.assert_allclose(by_time["loss"].sum() / 4, metrics["loss"])
  F = problem.primal(problem.x_t / 0.5, t)
  np.testing.assert_allclose(metrics["output_rms"], np.sqrt(np.mean(F**2)))


@pytest.mark.parametrize(
  ("base", "stages"), [(2, 7), (4, 3), (16, 1), (256, 0)]
)
def test_ects_published_runs_end_with_the_same_steps(base, stages):
  with pytest.raises(ConfigError, match="easy_base is"):
    consistency.EasyOptions(easy_base=1 / base)
  assert derivatives.easy_stages(consistency.EasyOptions(easy_base=base)) == (
    stages
  )


def test_ects_steps_shrink_no_further_than_the_last_ones():
  """In a run that is longer than its stages, they would vanish by rounding."""
  options = consistency.EasyOptions(easy_stage=10)
  jump = Jump(jnp.array([0.1, 0.8, 1.5], jnp.float32), 0.5)
  after = lambda step: derivatives.easy_successors(jump, options, step)
  last = 10 * derivatives.easy_stages(options)
  assert (after(last - 1) < after(last)).all()
  np.testing.assert_array_equal(after(last), after(1000 * last))
  assert (after(last) < jump.t).all()


@pytest.mark.parametrize("on", ["cifar10", "imagenet64"])
@pytest.mark.parametrize("step", [0, 250])
def test_ect_is_the_published_loss(mlp, step, on):
  """Up to its factor; in the first stage most steps end at 0.

  The loss is `||D(x_sigma) - D(x_r)|| / (sigma - r)` with shared noise, and on
  ImageNet `(sqrt(||...||^2 + c^2) - c) (sigma^2 + sigma_d^2) / (sigma
  sigma_d)^2`.
  """
  config = configs.parse_config([f"--config={on}:run=ect"])
  options = resolve.resolve(config).objective
  options = dataclasses.replace(options, easy_stage=100, easy_base=2.0)
  if on == "cifar10":  # it has no constant, and ours is a millionth
    options = dataclasses.replace(options, tangent_c=0.0)
  c = 0.06  # on ImageNet
  stage, wide = step // 100, lambda x: trigflow.expand(x, mlp.x0)
  sigma = 0.5 * jnp.tan(mlp.t)
  part = (1 + 8 / (1 + jnp.exp(sigma))) / 2.0 ** (stage + 1)
  r = jnp.maximum(sigma * (1 - part), 0.0)

  def D(params, sigma):
    t = jnp.arctan(sigma / 0.5)
    x_t = trigflow.interpolate(mlp.x0, mlp.z, t)
    F = dataclasses.replace(mlp, params=params).primal(x_t / 0.5, t)
    return trigflow.denoise(F, x_t, t, 0.5)

  def published(params):
    there = jax.lax.stop_gradient(D(params, r))
    there = jnp.where(wide(r) > 0, there, mlp.x0)
    far = diagnostics.norms(D(params, sigma) - there)
    if on == "cifar10":
      return jnp.mean(far / (sigma - r))
    weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    return jnp.mean((jnp.sqrt(far**2 + c**2) - c) * weight)

  def ours(params):
    loss, _ = consistency.loss(
      mlp.student, params, mlp.point, None, options, step
    )
    return loss

  # Where a step would pass 0 it ends there, and the weight is not its length's.
  inside = bool(jnp.all(part < 1))
  assert inside == (step > 0)
  if inside or on == "imagenet64":
    theirs = jax.grad(published)(mlp.params)
    scale = 1.0 if on == "imagenet64" else 2.0 ** (stage + 1) / 2
    found = jax.tree.map(lambda x: scale * x, jax.grad(ours)(mlp.params))
    assert_trees_close(found, theirs, rtol=1e-4, atol=1e-6)
  else:
    assert np.isfinite(ours(mlp.params))
