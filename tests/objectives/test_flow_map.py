"""Objectives with two times: their tangents, fixed points and limits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import trigflow
from scm_jax.objectives import (
  OBJECTIVES,
  consistency,
  derivatives,
  diagnostics,
  flow_map,
  tangent,
)
from scm_jax.objectives.tangent import Direction, Jump

S = np.array([0.0, 0.3, 1.1, 1.2])  # the third jump is of no length
SCALES = tuple(tangent.SCALES)
MAPS = {n: s.options for n, s in OBJECTIVES.items() if s.kind == "map"}
C = 0.3  # the deviation of data that are normal, where all is known


def at(problem, **cond):
  """The problem's batch with jumps to `S`, and a network that sees `S`."""

  untold, weight = problem.F, problem.w

  def F(params, u, t, cond, **keywords):
    turn = trigflow.expand(jnp.cos(cond["target"]), u)
    turn *= trigflow.expand(cond.get("guidance", jnp.ones_like(t)), u)
    return untold(params, u * turn, t, cond, **keywords) * turn

  w = lambda params, t, s: weight(params, t) * jnp.cos(s)
  problem = dataclasses.replace(
    problem, F=F, w=w, cond=problem.cond | {"target": jnp.asarray(S)} | cond
  )
  return problem, problem.point._replace(drawn={"s": jnp.asarray(S)})


def loss_of(problem, point, options, params, velocity=None, step=1.0):
  return consistency.loss(
    problem.student, params, point, velocity, options, step
  )


def close(a, b, **tolerances):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **tolerances), a, b
  )


@pytest.mark.parametrize("warmup", tangent.WARMUPS)
@pytest.mark.parametrize("scale", SCALES)
def test_the_tangent_is_the_derivative_of_the_jump(mlp, scale, warmup):
  """`g = a df/dt` with `s` fixed, whatever the velocity."""
  problem, _ = at(mlp)
  jump = Jump(problem.t, problem.sigma_d, S, scale, kappa=0.7)
  dx_dt = problem.velocity(problem.x_t, problem.t, problem.cond)

  def f(x_t, t):
    F = problem.primal(x_t / problem.sigma_d, t)
    return trigflow.denoise(F, x_t, t - S, problem.sigma_d)

  _, df_dt = jax.jvp(
    f, (problem.x_t, problem.t), (dx_dt, jnp.ones_like(problem.t))
  )
  direction = Direction(problem.x_t, dx_dt, jump)
  F, dF = tangent.by_jvp(problem.primal, direction)
  g = tangent.consistency_tangent(direction, F, dF, 1.0, warmup)
  close(g, direction.wide(jump.a) * df_dt, rtol=1e-12, atol=1e-14)


def test_the_loss_is_told_by_both_times(mlp):
  problem, point = at(mlp)
  options = MAPS["meanflow"]()
  loss, metrics = loss_of(problem, point, options, problem.params)
  found = metrics["by_jump"]
  count = np.zeros((4, 4))
  width = np.pi / 8
  for t, s in zip(problem.t, S, strict=True):
    count[int(t // width), int(s // width)] += 1
  close(found["count"], count)
  close(found["loss"].sum() / len(S), loss, rtol=1e-6)


def gaussian_F(params, u, t, cond, **kwargs):
  """Networks whose jumps are exact at `c = C` and no tilt."""
  del kwargs
  wide = lambda x: trigflow.expand(x, u)
  spread = lambda t: jnp.sqrt(
    (jnp.cos(t) * params["c"]) ** 2 + (jnp.sin(t) * 0.5) ** 2
  )
  s = cond["target"]
  safe = jnp.where(t > s, t - s, 1.0)
  slope = (jnp.cos(safe) - spread(t - safe) / spread(t)) / jnp.sin(safe)
  v = jnp.cos(t) * jnp.sin(t) * (0.5**2 - params["c"] ** 2) / spread(t) ** 2
  slope = jnp.where(t > s, slope, v)
  return u * wide(slope) + params["tilt"] * wide(jnp.sin(t))


def gaussian_velocity(x_t, t, cond):
  exact = {"c": C, "tilt": 0.0}
  return 0.5 * gaussian_F(exact, x_t / 0.5, t, cond | {"target": t})


@pytest.mark.parametrize("name", sorted(MAPS.keys() - {"alphaflow"}))
def test_the_exact_map_is_stationary(mlp, name):
  """On normal data, for jumps to any time."""
  options = MAPS[name](warmup_limit=1.0, kappa=0.8)
  problem = dataclasses.replace(mlp, F=gaussian_F, w=lambda p, t, s: 0 * t)
  point = problem.point._replace(drawn={"s": jnp.asarray(S)})
  gradient = jax.jit(
    jax.grad(
      lambda p: loss_of(problem, point, options, p, gaussian_velocity, 1e9)[0]
    )
  )
  exact = {"c": C, "tilt": 0.0}
  for value in gradient(exact).values():
    assert abs(value) < 1e-10
  for leaf in exact:
    elsewhere = gradient(exact | {leaf: exact[leaf] + 0.1})
    assert max(abs(v) for v in elsewhere.values()) > 1e-4


@pytest.mark.parametrize("name", MAPS)
def test_a_jump_of_no_length_learns_the_velocity(mlp, name):
  """The gradient is that of half the squared error over sigma_d."""
  problem, point = at(mlp, target=mlp.t)
  point = point._replace(drawn={"s": mlp.t})
  options = MAPS[name](
    adaptive_weighting=False,
    error_power=0.0,
    reduction="mean",
    prior_weight="none",
  )

  def matching(params):
    F = problem.F(
      params,
      problem.x_t / 0.5,
      problem.t,
      point.cond,
      rngs=point.rngs,
      train=True,
    )
    v = problem.velocity(problem.x_t, problem.t, point.cond)
    return jnp.mean((F - v / 0.5) ** 2)

  ours = jax.grad(
    lambda p: loss_of(problem, point, options, p, problem.velocity)[0]
  )(problem.params)
  close(ours, jax.grad(matching)(problem.params), rtol=1e-9, atol=1e-13)


def test_one_segment_is_scm_to_the_bit(mlp):
  """And so is any network that is not told where jumps end."""
  w = lambda params, t, s=None: mlp.w(params, t)
  problem = dataclasses.replace(mlp, w=w)
  told = problem.point._replace(drawn={"s": jnp.zeros_like(mlp.t)})

  def run(point, options):
    return jax.jit(
      jax.value_and_grad(
        lambda p: loss_of(problem, point, options, p, mlp.velocity)[0]
      )
    )(problem.params)

  ours = run(told, flow_map.Multistep(segments=1))
  close(ours, run(problem.point, consistency.Options()), rtol=0)


def rectified(
  problem, point, params, kappa, along="velocity", guide=lambda v, own: v
):
  """A rectified flow, in units of its noise's deviation `sigma_d / kappa`.

  Its times `tau`, average velocities `u` and their targets: by MeanFlow, or by
  iMF if `along` is "network". `guide(v, own)` guides the samples' velocities by
  the network's, `own(cond)`.
  """
  unit = problem.sigma_d / kappa
  on_line = lambda t: kappa * jnp.sin(t) / (jnp.cos(t) + kappa * jnp.sin(t))
  circle = lambda tau: jnp.arctan2(tau, kappa * (1 - tau))
  noise, data = point.z / problem.sigma_d, point.x0 / unit
  wide = lambda x: trigflow.expand(x, point.x0)
  tau, r = on_line(point.t), on_line(point.drawn["s"])
  z = wide(1 - tau) * data + wide(tau) * noise
  v = noise - data

  training = {"rngs": point.rngs, "train": True}

  def average(params, z, tau, cond=point.cond, keywords=training):
    t = circle(tau)
    c = jnp.cos(t) + kappa * jnp.sin(t)
    x_t = wide(c) * z * unit
    F = problem.F(params, x_t / problem.sigma_d, t, cond, **keywords)
    slope = kappa * jnp.cos(t) - jnp.sin(t)
    return (wide(c) * problem.sigma_d * F - wide(slope) * x_t) / kappa / unit

  frozen = jax.lax.stop_gradient(params)
  own = lambda cond: average(frozen, z, tau, cond | {"target": point.t}, {})
  v = guide(v, own)
  _, du = jax.jvp(
    lambda z, tau: average(frozen, z, tau),
    (z, tau),
    (v if along == "velocity" else own(point.cond), jnp.ones_like(tau)),
  )
  return tau, average(params, z, tau), v - wide(tau - r) * du


def published_meanflow(
  problem, point, params, power, floor, kappa, along, *guide
):
  _, u, target = rectified(problem, point, params, kappa, along, *guide)
  squares = jnp.sum((u - target) ** 2, (1, 2, 3))
  weight = jax.lax.stop_gradient((squares + floor) ** power)
  return jnp.mean(squares / weight)


def published_facm(problem, point, params, kappa):
  """Its loss of jumps to data, and its anchor for the other samples."""
  tau, u, target = rectified(problem, point, params, kappa)
  mean = lambda error: jnp.mean(error**2, (1, 2, 3))
  part = trigflow.expand(1 - jnp.sqrt(1 - tau), u)
  fixed = jax.lax.stop_gradient(u)
  squares = mean(u - fixed + part * jnp.clip(fixed - target, -1, 1))
  weight = jnp.cos(jnp.pi / 2 * (1 - tau))
  weight /= jax.lax.stop_gradient(jnp.sqrt(squares + 1e-3))
  jumps = jnp.where(point.drawn["s"] < point.t, squares * weight, 0)
  anchor = jnp.where(point.drawn["s"] < point.t, 0, mean(u - target))
  return jnp.mean(jumps + anchor)


@pytest.mark.parametrize("kappa", [0.5, 1.0])
@pytest.mark.parametrize("power", [0.0, 0.75])
@pytest.mark.parametrize("name", ["meanflow", "imf"])
def test_meanflow_is_the_published_loss(mlp, name, kappa, power):
  """Its value and gradient are those of a rectified flow's average velocity."""
  problem, point = at(mlp)
  options = MAPS[name](error_power=power or 1e-30, error_floor=0.2, kappa=kappa)
  ours = jax.value_and_grad(
    lambda p: loss_of(problem, point, options, p, None, 1e9)[0]
  )(problem.params)
  theirs = jax.value_and_grad(
    lambda p: published_meanflow(
      problem, point, p, power, 0.2, kappa, options.along
    )
  )(problem.params)
  close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kappa", [0.5, 1.0])
@pytest.mark.parametrize("scales", [2.0, [1.0, 1.5, 7.0, 4.0]])
@pytest.mark.parametrize("guided_taus", [None, (0.5, 0.9)])
@pytest.mark.parametrize(
  ("name", "omega"), [("meanflow", 1.0), ("meanflow", 0.2), ("imf", 1.0)]
)
def test_guided_targets_are_the_published_ones(
  mlp, name, omega, scales, kappa, guided_taus
):
  """MeanFlow's by its two factors, iMF's by its scale alone.

  The label 2 is none: the second sample's was dropped. Where there is an
  interval, only some of the times are in it.
  """
  told = {"label": jnp.array([0, 2, 1, 0])}
  sampled = isinstance(scales, list)
  if sampled:
    told["guidance"] = jnp.array(scales)
  problem, point = at(mlp, **told)
  point = point._replace(cond=problem.cond)
  given = {"guidance": "sampled" if sampled else "fixed"}
  if not sampled:
    given["guidance_scale"] = scales
  sigma = lambda tau: problem.sigma_d / kappa * tau / (1 - tau)
  if guided_taus:
    given["guidance_interval"] = tuple(map(sigma, guided_taus))
  options = MAPS[name](num_classes=2, omega=omega, kappa=kappa, **given)
  s = trigflow.expand(jnp.broadcast_to(jnp.array(scales), (4,)), point.x0)
  ones = {"guidance": jnp.ones(4)} if sampled else {}
  slope, (low, high) = kappa * jnp.tan(point.t), guided_taus or (0.0, 1.0)
  inside = (low <= slope / (1 + slope)) & (slope / (1 + slope) <= high)
  if guided_taus:
    assert 0 < inside[jnp.array([0, 2, 3])].sum() < 3

  def guide(v, own):
    cond = point.cond
    v_c, v_u = own(cond), own(cond | {"label": jnp.full(4, 2)} | ones)
    if name == "imf":
      guided = v + (1 - 1 / s) * (v_c - v_u)
    else:
      kappa = 1 - omega / s
      guided = omega * v + kappa * v_c + (1 - omega - kappa) * v_u
    return diagnostics.select(inside & (cond["label"] != 2), guided, v)

  ours = jax.value_and_grad(
    lambda p: loss_of(problem, point, options, p, None, 1e9)[0]
  )(problem.params)
  theirs = jax.value_and_grad(
    lambda p: published_meanflow(
      problem, point, p, 1.0, 0.01, kappa, options.along, guide
    )
  )(problem.params)
  close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
  ("low", "expected"), [(0.5, 1.0), (1.0, 1.0), (2.0, 2.0)]
)
def test_the_unlabelled_network_is_asked_at_a_scale_that_it_learns(
  mlp, low, expected
):
  """1 if it is drawn, and the nearest one otherwise."""
  problem, point = at(mlp, label=jnp.zeros(4, int), guidance=jnp.full(4, 3.0))
  asked, plain = [], problem.F

  def F(params, u, t, cond, **keywords):
    asked.append(cond)
    return plain(params, u, t, cond, **keywords)

  problem = dataclasses.replace(problem, F=F)
  options = flow_map.MeanFlow(
    num_classes=2, guidance="sampled", guidance_range=(low, 8.0), omega=0.5
  )
  point = point._replace(cond=problem.cond)
  loss_of(problem, point, options, problem.params)
  [found] = [c["guidance"] for c in asked if (c["label"] == 2).all()]
  np.testing.assert_array_equal(found, np.full(4, expected))


@pytest.mark.parametrize("kappa", [0.5, 1.0])
def test_facm_is_the_published_loss(mlp, kappa):
  """But for the anchor's cosine; of some tangents, a part is clipped."""
  s = jnp.where(S == mlp.t, mlp.t, 0.0)
  problem, point = at(mlp, target=s)
  point = point._replace(drawn={"s": s})
  options = flow_map.AnchoredConsistency(kappa=kappa)
  _, u, target = rectified(problem, point, problem.params, kappa)
  assert 0.05 < np.mean(np.abs(u - target)[s < mlp.t] > 1) < 0.95
  ours = jax.value_and_grad(
    lambda p: loss_of(problem, point, options, p, None, 1e9)[0]
  )(problem.params)
  theirs = jax.value_and_grad(
    lambda p: published_facm(problem, point, p, kappa)
  )(problem.params)
  close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_imf_has_meanflows_gradient_where_the_network_has_the_velocity(mlp):
  """Only the direction of the derivative is another one."""
  problem, point = at(mlp)
  own = lambda x, t, cond: (
    0.5 * problem.F(problem.params, x / 0.5, t, cond | {"target": t})
  )

  def gradient(options):
    loss = lambda p: loss_of(problem, point, options, p, own, 1e9)[0]
    return jax.grad(loss)(problem.params)

  grads = map(gradient, (flow_map.MeanFlow(), flow_map.ImprovedMeanFlow()))
  close(*grads, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("step, error", [(0, 0.0), (10**9, 0.02)])
def test_alpha_flow_goes_from_velocities_to_the_derivative(mlp, step, error):
  """Its first part is the whole way, its last a two-hundredth of it."""
  problem, point = at(mlp)
  options = flow_map.AlphaFlow(anneal_steps=(10, 20))
  found = derivatives.tangents(
    problem.F, problem.params, point, problem.velocity, options, step
  )
  F = np.asarray(found.output)
  gap = problem.velocity(problem.x_t, problem.t, point.cond) / 0.5 - F
  expected = gap
  if step:
    exact = dataclasses.replace(options, derivative="jvp")
    expected = derivatives.tangents(
      problem.F, problem.params, point, problem.velocity, exact, step
    ).g
  far = diagnostics.norms(found.g - expected) / diagnostics.norms(expected)
  assert max(far) <= error + 1e-12
