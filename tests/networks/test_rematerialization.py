"""Policies of what a block keeps: same values, less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.networks import DDPMppConfig, DiTConfig, UNetConfig, layers
from scm_jax.objectives import Point, Student, consistency

SIZES = {
  "resolution": 8,
  "in_channels": 2,
  "channels": 8,
  "channels_per_head": 8,
}
LEVELS = SIZES | {"channel_mult": (1,), "channel_mult_emb": 1, "num_blocks": 1}
LEVELS |= {"attn_resolutions": (), "dropout": 0.3}
TINY = {
  UNetConfig: LEVELS,
  DDPMppConfig: LEVELS,
  DiTConfig: SIZES | {"depth": 2},
}
DEEP = {
  UNetConfig: LEVELS | {"num_blocks": 3},
  DDPMppConfig: LEVELS | {"num_blocks": 3},
  DiTConfig: SIZES | {"depth": 6},
}
BATCH = 4


def objective(config):
  """The sCM objective, whose value comes out of a `jax.jvp`."""
  network = networks.build(config)

  def loss(params, x0, z, t, key):
    point = Point(x0, z, t, {}, {"dropout": key})
    options = consistency.Options(warmup_steps=0)
    student = Student(network.F, network.w)
    return consistency.loss(student, params, point, None, options, 1)[0]

  return loss


def batch():
  rng = np.random.default_rng(0)
  draw = lambda: jnp.asarray(rng.normal(0, 0.5, (BATCH, 8, 8, 2)), jnp.float32)
  return draw(), draw(), jnp.linspace(0.1, 1.5, BATCH), jax.random.key(1)


@functools.cache
def compiled(kind, policy):
  config = kind(remat=policy, **TINY[kind])
  params = networks.build(config).shapes
  arguments = (params, *jax.eval_shape(batch))
  step = jax.jit(jax.value_and_grad(objective(config)))
  return params, step.lower(*arguments).compile()


@pytest.mark.slow
@pytest.mark.parametrize("kind", TINY)
def test_parameters_and_gradients_are_the_same(kind, random_params):
  params = random_params(networks.build(kind(**TINY[kind])))
  params = jax.tree.map(lambda p: p / 2, params)
  shapes, step = compiled(kind, "none")
  loss, wanted = step(params, *batch())
  for policy in layers.POLICIES:
    named, step = compiled(kind, policy)
    assert jax.tree.structure(named) == jax.tree.structure(shapes)
    value, given = step(params, *batch())
    np.testing.assert_allclose(value, loss, rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (given, wanted)), strict=True):
      scale = np.linalg.norm(b) + 1e-6
      assert np.linalg.norm(a - b) <= 1e-3 * scale


@pytest.mark.slow
def test_compiled_steps_need_less_memory():
  """By XLA's account of the step's temporaries."""
  bytes_ = {
    policy: compiled(UNetConfig, policy)[1].memory_analysis()
    for policy in ("none", "full")
  }
  temporary = {k: m.temp_size_in_bytes for k, m in bytes_.items()}
  assert temporary["full"] < 0.95 * temporary["none"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEEP)
def test_what_is_kept_for_the_backward_pass(kind):
  """Nothing inside a block, or what convolutions and products gave."""

  def kept(policy):
    config = kind(**DEEP[kind], remat=policy)
    params = networks.build(config).shapes
    backward = jax.eval_shape(
      lambda params, rest: jax.vjp(
        lambda p: objective(config)(p, *rest), params
      )[1],
      *(params, jax.eval_shape(batch)),
    )
    arrays = jax.tree.leaves(backward)
    return sum(a.size for a in arrays) - sum(
      leaf.size for leaf in jax.tree.leaves(params)
    )

  nothing, products, everything = map(kept, ("full", "dots", "none"))
  assert nothing < 0.6 * products and products < 0.6 * everything
