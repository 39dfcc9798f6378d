"""The diffusion loss: Equation 4, weighted, and robust."""

import dataclasses

import numpy as np

from scm_jax import trigflow
from scm_jax.objectives import diffusion


def loss_of(problem, params, **options):
  options = diffusion.Options(**options)
  return diffusion.loss(
    problem.student, params, problem.point, None, options, 0
  )


def test_value(mlp):
  F, w = mlp.primal(mlp.x_t / mlp.sigma_d, mlp.t), mlp.w(mlp.params, mlp.t)
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
