"""Gradients through float16 keep their digits, and no factor shows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.networks import UNetConfig
from scm_jax.objectives import Point, Student, consistency
from scm_jax.training import loss_scaling

CONFIG = UNetConfig(
  resolution=4,
  in_channels=4,
  channels=16,
  channel_mult=(1,),
  num_blocks=1,
  attn_resolutions=(4,),
  channels_per_head=16,
)


@pytest.fixture(scope="module")
def problem():
  network = networks.build(CONFIG)
  rng = np.random.default_rng(0)
  params = dict(jax.jit(network.init)(jax.random.key(0)))
  params["denoiser"] = dict(params["denoiser"], out_gain=jnp.float32(1))
  x0, z = (jnp.asarray(rng.normal(0, 0.5, (8, 4, 4, 4)), jnp.float32),) * 2
  return params, Point(x0, z, jnp.linspace(0.1, 1.5, 8), {})


@functools.cache
def differentiated(dtype, scaled):
  """`f(params, point, factor)`: the gradient of `factor` times sCT's loss.

  An untrained weighting makes that loss small.
  """
  network = networks.build(dataclasses.replace(CONFIG, dtype=jnp.dtype(dtype)))
  network = loss_scaling.probed(network)

  def gradient(params, point, factor):
    def loss(params):
      options = consistency.Options(warmup_steps=0)
      student = Student(network.F, network.w)
      value, _ = consistency.loss(student, params, point, None, options, 1)
      return factor * value, None

    if not scaled:
      return jax.grad(loss, has_aux=True)(params)[0]
    output = jax.ShapeDtypeStruct(point.x0.shape, jnp.float32)
    return loss_scaling.gradient(loss, params, output, ())[0]

  return jax.jit(gradient)


def gradients(problem, dtype, scaled, factor=1.0):
  return differentiated(dtype, scaled)(*problem, factor)


def distance(a, b):
  leaves = lambda tree: [np.ravel(x) for x in jax.tree.leaves(tree["denoiser"])]
  a, b = (np.concatenate(leaves(tree)) for tree in (a, b))
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_it_changes_no_bit_of_float32(problem):
  """The factor is a power of two."""
  plain, scaled = (gradients(problem, "float32", s) for s in (False, True))
  assert distance(scaled, plain) < 1e-6


@pytest.mark.parametrize("factor", [1.0, 1e-5])
def test_float16(problem, factor):
  """However small the loss: unscaled, the smaller one loses its digits."""
  exact = gradients(problem, "float32", False, factor)
  assert distance(gradients(problem, "float16", True, factor), exact) < 0.01
  lost = distance(gradients(problem, "float16", False, factor), exact)
  assert factor == 1.0 or lost > 0.1


def test_nothing_to_scale(problem):
  """A loss without slope has a zero gradient, not NaN."""
  grads = gradients(problem, "float16", True, factor=0.0)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
