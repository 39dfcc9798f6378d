"""The teacher that a weak one guides, on Gaussian data of known velocities.

Teachers that took data of deviation `c` for theirs have the velocity
`x cos t sin t (sigma_d^2 - c^2) / V(t)` with `V(t) = cos^2 t c^2 + sin^2 t
sigma_d^2`. Guided, their velocities are mixed, and a trajectory is the product
of their trajectories' powers: `x_s = x_t (V_s / V_t)^(w / 2)
(U_s / U_t)^((1 - w) / 2)`.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import trigflow
from scm_jax.objectives import OBJECTIVES, Student, consistency, velocity

C, C_WEAK = 0.3, 0.7  # deviations that the teacher and the weak network took


def variance(c, t, sigma_d):
  return (jnp.cos(t) * c) ** 2 + (jnp.sin(t) * sigma_d) ** 2


def teacher(c, sigma_d):
  """`F(x / sigma_d, t, cond)` of the exact velocity."""

  def F(u, t, cond):
    del cond
    rate = jnp.sin(2 * t) / 2 * (sigma_d**2 - c**2)
    return trigflow.expand(rate / variance(c, t, sigma_d), u) * u

  return F


def solution(scale, sigma_d):
  """`F(params, x / sigma_d, t, cond)` of the jump to `cond["target"]`."""

  def F(params, u, t, cond):
    del params
    s = cond["target"] if "target" in cond else jnp.zeros_like(t)
    ratio = lambda c: variance(c, s, sigma_d) / variance(c, t, sigma_d)
    size = ratio(C) ** (scale / 2) * ratio(C_WEAK) ** ((1 - scale) / 2)
    return trigflow.expand((jnp.cos(t - s) - size) / jnp.sin(t - s), u) * u

  return F


@pytest.mark.parametrize("scale", [1.0, 2.0, jnp.array([1.0, 1.5, 2.0, 3.0])])
@pytest.mark.parametrize("run", ["scd", "ms_scd", "ayf"])
def test_the_guided_trajectories_are_what_is_learnt(mlp, run, scale):
  guided = velocity.from_network(
    velocity.guide(
      teacher(C, mlp.sigma_d), teacher(C_WEAK, mlp.sigma_d), scale
    ),
    mlp.sigma_d,
  )
  options = OBJECTIVES[run].options(
    sigma_d=mlp.sigma_d, warmup_steps=0, warmup_limit=1.0
  )
  point = mlp.point._replace(drawn={"s": mlp.t / 3})

  def tangent(scale):
    student = Student(solution(scale, mlp.sigma_d))
    return consistency.raw_tangent(student, {}, point, guided, options, 1.0)

  np.testing.assert_allclose(tangent(scale), 0.0, atol=1e-12)
  assert np.abs(tangent(scale + 0.5)).max() > 1e-3
