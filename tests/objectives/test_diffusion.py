"""The diffusion loss: Equation 4, weighted, and robust."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from scm_jax import trigflow
from scm_jax.objectives import diffusion


def loss_of(problem, params, **kwargs):
  return diffusion.loss(
    *(problem.F, problem.w, params, *problem.arguments),
    sigma_d=problem.sigma_d,
    rngs=problem.rngs,
    **kwargs,
  )


def test_value(mlp):
  F, w = mlp.primal(mlp.x_t / mlp.sigma_d, mlp.t)
  t = np.asarray(mlp.t)[:, None, None, None]
  v = np.cos(t) * mlp.z - np.sin(t) * mlp.x0
  squares = np.mean((mlp.sigma_d * F - v) ** 2, (1, 2, 3))
  value, metrics = loss_of(mlp, mlp.params)
  np.testing.assert_allclose(value, np.mean(np.exp(w) * squares - w))
  np.testing.assert_allclose(metrics["mse"], squares.mean())
  np.testing.assert_allclose(metrics["by_time"]["mse"].sum(), squares.sum())
  plain, _ = loss_of(mlp, mlp.params, adaptive_weighting=False)
  np.testing.assert_allclose(plain, squares.mean())


def test_the_true_velocity_has_no_error(mlp):
  v = trigflow.data_velocity(mlp.x0, mlp.z, mlp.t)
  problem = dataclasses.replace(
    mlp, F=lambda params, u, t, cond, **kwargs: v / mlp.sigma_d
  )
  value, _ = loss_of(problem, mlp.params, adaptive_weighting=False)
  assert value < 1e-30


def test_a_sample_that_is_not_finite_is_left_out(mlp):
  """Whether it came so, or the network made it so."""

  def F(params, u, t, cond, **kwargs):
    output = mlp.F(params, u, t, cond, **kwargs)
    poison = jnp.where(cond["label"] == 1, jnp.inf, 0.0)
    return output + trigflow.expand(poison, output)

  clean = dataclasses.replace(mlp, rngs={})
  bad = dataclasses.replace(clean, F=F, x0=clean.x0.at[3].set(jnp.nan))
  kept = jnp.array([0, 2])
  few = dataclasses.replace(
    clean,
    **{name: getattr(mlp, name)[kept] for name in ("x0", "z", "t")},
    cond={"label": mlp.cond["label"][kept]},
  )
  gradient = lambda problem: jax.grad(
    lambda params: loss_of(problem, params), has_aux=True
  )(mlp.params)
  grads, metrics = gradient(bad)
  expected_grads, expected = gradient(few)
  assert metrics["nonfinite_samples"] == 2
  np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-12)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13),
    grads,
    expected_grads,
  )
