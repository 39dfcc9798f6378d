"""The tangent's own precision: equivalences, isolation, and its errors."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import trigflow
from scm_jax.objectives import consistency, diagnostics, precision


def loss(problem, params, options=None, tangent_F=None):
  options = options or consistency.Options()
  return consistency.loss(
    problem.student._replace(tangent_F=tangent_F),
    params,
    problem.point,
    problem.velocity,
    dataclasses.replace(options, warmup_steps=10),
    7,
  )


def gradient(problem, **kwargs):
  f = lambda params: loss(problem, params, **kwargs)
  return jax.jit(jax.grad(f, has_aux=True))(problem.params)


@pytest.mark.parametrize("derivative", ["jvp", "finite_difference", "discrete"])
def test_a_pass_of_its_own_gives_the_same(mlp, derivative):
  """Loss, metrics and gradient, with dropout's masks shared by both passes."""
  options = consistency.Options(derivative=derivative)
  one = gradient(mlp, options=options)
  two = gradient(mlp, options=options, tangent_F=mlp.F)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9), one, two)


def test_what_overflows_in_the_tangent_stays_out_of_the_gradient(mlp):
  """The pass that is differentiated never sees the sample."""
  problem = dataclasses.replace(mlp, rngs={})
  F = problem.F

  def overflows(params, u, t, cond, **kwargs):
    output = F(params, u, t, cond, **kwargs)
    bad = trigflow.expand(cond["label"] == 1, output)
    return jnp.where(bad, jnp.exp(1e4 * output), output)

  grads, metrics = gradient(problem, tangent_F=overflows)
  keep = jnp.array([0, 2, 3])
  point = jax.tree.map(lambda x: x[keep], problem.point)
  without = dataclasses.replace(
    problem, x0=point.x0, z=point.z, t=point.t, cond=point.cond
  )
  expected, _ = gradient(without, tangent_F=F)
  assert metrics["valid"].tolist() == [True, False, True, True]
  close = lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-12)
  jax.tree.map(close, grads, expected)


def test_errors_of_known_tangents():
  """Noise of 1 % a sample whose mean is a hundredth of it; a bias of 5 %."""
  rng = np.random.default_rng(0)
  samples, shape = 4096, (4, 4, 2)
  signal = rng.normal(size=shape)
  exact = np.broadcast_to(signal, (samples, *shape))
  noise = rng.normal(size=exact.shape)
  scale = np.sqrt(np.square(signal).mean())
  low, high = np.full(samples // 2, 0.1), np.full(samples // 2, 1.5)
  t = np.concatenate([low, high])
  bias = np.where(t > 1, 0.05, 0.0)[:, None, None, None]
  g = exact + 0.01 * scale * noise + bias * exact
  sums = jax.jit(precision.errors)(*map(jnp.asarray, (g, exact, t)))
  found = precision.summary(jax.device_get(sums))
  width = math.pi / 2 / diagnostics.TIME_BINS
  at = lambda name, i: found[f"{name}/t={(i + 0.5) * width:.2f}"]
  assert len(found) == 4  # the other bins had no sample
  assert at("tangent_error", 0) == pytest.approx(0.01, rel=0.02)
  assert at("tangent_bias", 0) == pytest.approx(0.01 / 2048**0.5, rel=0.3)
  assert at("tangent_error", 7) == pytest.approx(0.051, rel=0.02)
  assert at("tangent_bias", 7) == pytest.approx(0.05, rel=0.02)


def test_errors_add_up_over_parts_and_leave_out_what_is_not_finite():
  rng = np.random.default_rng(0)
  g, exact = jnp.asarray(rng.normal(size=(2, 12, 3, 1)))
  t = jnp.asarray(rng.uniform(0, 1.5, 12))
  bad = g.at[5].set(jnp.nan)
  errors = jax.jit(precision.errors)
  whole = errors(bad, exact, t)
  keep = np.delete(np.arange(12), 5)
  parts = [
    errors(g[part], exact[part], t[part]) for part in (keep[:4], keep[4:])
  ]
  total = jax.tree.map(jnp.add, *parts)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 1e-9), whole, total
  )
