"""Teachers as velocities, and their guidance."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.objectives import velocity

NO_LABEL = 2  # the third row of the labels' embedding


def branches(mlp):
  F = lambda x, t, cond: mlp.F(mlp.params, x, t, cond)
  u = mlp.x_t / mlp.sigma_d
  cond = {"label": jnp.array([0, 1, 0, 1]), "other": mlp.t}
  free = F(u, mlp.t, {"label": jnp.full(4, NO_LABEL)})
  return F, u, cond, F(u, mlp.t, cond), free


@pytest.mark.parametrize("scale", [0.0, 1.7, jnp.array([1.0, 1.2, 2.0, 0.0])])
def test_guidance(mlp, scale):
  F, u, cond, conditional, free = branches(mlp)
  guided = velocity.guide(F, NO_LABEL, scale)(u, mlp.t, cond)
  for i, s in enumerate(np.broadcast_to(scale, 4)):
    expected = free[i] + s * (conditional[i] - free[i])
    np.testing.assert_allclose(guided[i], expected, rtol=1e-12)


def test_guidance_of_scale_1_is_none(mlp):
  F, u, cond, conditional, free = branches(mlp)
  guided = velocity.guide(F, NO_LABEL, 1.0)(u, mlp.t, cond)
  np.testing.assert_allclose(guided, conditional, atol=1e-15)
  assert np.abs(conditional - free).max() > 0.1
  unlabelled = velocity.unconditional(cond, NO_LABEL)
  np.testing.assert_array_equal(unlabelled["label"], [NO_LABEL] * 4)
  np.testing.assert_array_equal(unlabelled["other"], cond["other"])


def test_velocity_of_a_network(mlp):
  network = dataclasses.replace(mlp, rngs={})
  F = lambda x, t, cond: mlp.F(mlp.params, x, t, cond)
  v = velocity.from_network(F, mlp.sigma_d)(mlp.x_t, mlp.t, mlp.cond)
  output, _ = network.primal(mlp.x_t / mlp.sigma_d, mlp.t)
  np.testing.assert_allclose(v, mlp.sigma_d * output, rtol=1e-12)
