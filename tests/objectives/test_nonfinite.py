"""A sample that is not finite is as if it were not there, and is counted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import trigflow
from scm_jax.objectives import consistency, diffusion


@pytest.fixture
def clean(mlp):
  """Without dropout, whose masks depend on the batch."""
  return dataclasses.replace(mlp, rngs={})


def sct(problem, params):
  options = consistency.Options(warmup_steps=0)
  return consistency.loss(
    problem.student, params, problem.point, None, options, 1
  )


def diffuse(problem, params):
  options = diffusion.Options()
  return diffusion.loss(
    problem.student, params, problem.point, None, options, 0
  )


def without(problem, index):
  """The problem less one sample."""
  keep = jnp.array([i for i in range(len(problem.t)) if i != index])
  batch = {"x0": problem.x0, "z": problem.z, "t": problem.t}
  batch["cond"] = problem.cond
  return dataclasses.replace(
    problem, **jax.tree.map(lambda leaf: leaf[keep], batch)
  )


def poisoned(problem, poison):
  """The network plus `poison(t)` where the label is 1, which is sample 1."""

  def F(params, u, t, cond, **kwargs):
    output = problem.F(params, u, t, cond, **kwargs)
    extra = poison(jnp.where(cond["label"] == 1, t, 1.0))
    extra = jnp.where(cond["label"] == 1, extra, 0.0)
    return output + trigflow.expand(extra, output)

  return dataclasses.replace(problem, F=F)


def check(loss, bad, index):
  run = lambda problem: jax.jit(
    jax.grad(lambda params: loss(problem, params), has_aux=True)
  )(problem.params)
  grads, metrics = run(bad)
  expected_grads, expected = run(without(bad, index))
  assert metrics["nonfinite_samples"] == 1
  assert expected["nonfinite_samples"] == 0
  assert all(np.isfinite(m).all() for m in jax.tree.leaves(metrics))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
  close(metrics["loss"], expected["loss"])
  jax.tree.map(close, grads, expected_grads)
  jax.tree.map(close, metrics["by_time"], expected["by_time"])


@pytest.mark.parametrize("loss", [sct, diffuse])
def test_data(clean, loss):
  x0 = clean.x0.at[2, 0, 1, 0].set(jnp.nan)
  check(loss, dataclasses.replace(clean, x0=x0), 2)


@pytest.mark.parametrize("loss", [sct, diffuse])
def test_output_of_the_network(clean, loss):
  check(loss, poisoned(clean, lambda t: jnp.nan * t), 1)


def test_derivative_of_the_network(clean):
  """The value is finite: a root at zero, whose slope is not."""
  check(sct, poisoned(clean, lambda t: jnp.sqrt(t - clean.t[1])), 1)
