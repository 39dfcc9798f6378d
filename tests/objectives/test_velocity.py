"""Teachers as velocities, and their guidance."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import trigflow
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
  weak = velocity.unlabelled(F, NO_LABEL)
  guided = velocity.guide(F, weak, scale)(u, mlp.t, cond)
  for i, s in enumerate(np.broadcast_to(scale, 4)):
    expected = free[i] + s * (conditional[i] - free[i])
    np.testing.assert_allclose(guided[i], expected, rtol=1e-12)


def test_guidance_of_scale_1_is_none(mlp):
  F, u, cond, conditional, free = branches(mlp)
  weak = velocity.unlabelled(F, NO_LABEL)
  guided = velocity.guide(F, weak, 1.0)(u, mlp.t, cond)
  np.testing.assert_allclose(guided, conditional, atol=1e-15)
  assert np.abs(conditional - free).max() > 0.1
  unlabelled = velocity.unconditional(cond, NO_LABEL)
  np.testing.assert_array_equal(unlabelled["label"], [NO_LABEL] * 4)
  np.testing.assert_array_equal(unlabelled["other"], cond["other"])


def test_guidance_in_an_interval(mlp):
  """Inside it there is guidance, elsewhere none; its ends belong to it."""
  F, u, cond, conditional, _ = branches(mlp)
  weak = velocity.unlabelled(F, NO_LABEL)
  whole = velocity.guide(F, weak, 1.7)(u, mlp.t, cond)
  sigma = np.asarray(trigflow.time_to_sigma(mlp.t, mlp.sigma_d))
  low, high = np.sort(sigma)[1:3]
  where = lambda t: velocity.is_guided(t, (low, high), mlp.sigma_d)
  guided = velocity.guide(F, weak, 1.7, where)(u, mlp.t, cond)
  for i, level in enumerate(sigma):
    expected = whole[i] if low <= level <= high else conditional[i]
    np.testing.assert_array_equal(guided[i], expected)
  assert velocity.is_guided(mlp.t, (), mlp.sigma_d).all()


def test_guidance_by_another_network(mlp):
  """`D_w + s (D - D_w)` in denoisers, whatever the other network is."""
  F, u, cond, conditional, _ = branches(mlp)
  asked = []

  def weak_F(weights, x, t, cond):
    asked.append(cond)
    return jnp.sin(weights["a"] * x)

  network = types.SimpleNamespace(F=lambda w, *args: F(*args), config=None)
  weak = types.SimpleNamespace(F=weak_F)
  scale = jnp.array([1.0, 1.4, 2.0, 3.0])
  weights = {"guide": {"a": 2.0}}
  guided = velocity.guided(network, weak, weights, scale)(u, mlp.t, cond)
  np.testing.assert_array_equal(asked[0]["label"], cond["label"])  # its own

  def denoised(F):
    return trigflow.denoise(F, mlp.x_t, mlp.t, mlp.sigma_d)

  D, D_weak = denoised(conditional), denoised(jnp.sin(2.0 * u))
  s = scale.reshape(-1, *[1] * (u.ndim - 1))
  np.testing.assert_allclose(
    denoised(guided), D_weak + s * (D - D_weak), rtol=1e-9, atol=1e-12
  )


def test_velocity_of_a_network(mlp):
  network = dataclasses.replace(mlp, rngs={})
  F = lambda x, t, cond: mlp.F(mlp.params, x, t, cond)
  v = velocity.from_network(F, mlp.sigma_d)(mlp.x_t, mlp.t, mlp.cond)
  output = network.primal(mlp.x_t / mlp.sigma_d, mlp.t)
  np.testing.assert_allclose(v, mlp.sigma_d * output, rtol=1e-12)


@pytest.mark.parametrize("omega", [0.2, 1.0])
def test_a_guided_velocity_rests_where_classifier_free_guidance_ends(omega):
  """What the network learns at `s = t` is `F_0 + scale (v - F_0)`."""
  v, weak, own, scale = jnp.array([[1.0]]), jnp.array([[0.4]]), 0.0, 2.5
  for _ in range(300):
    own = velocity.guide_sample(v, own, weak, scale, omega)
  np.testing.assert_allclose(own, weak + scale * (v - weak), rtol=1e-8)
