"""The U-Net: what it starts as, and its conditions."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.networks import UNetConfig

TINY = UNetConfig(
  resolution=4,
  in_channels=2,
  num_classes=3,
  channels=8,
  channel_mult=(1,),
  num_blocks=1,
  attn_resolutions=(),
  channels_per_head=4,
)
TWO_LEVELS = dataclasses.replace(
  TINY, resolution=8, channel_mult=(1, 2), attn_resolutions=(8,)
)


def relative(a, b):
  a, b = (np.asarray(v, np.float64) for v in (a, b))
  return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("form", ["trigflow", "edm2"])
def test_starts_at_zero(form, inputs):
  config = dataclasses.replace(TINY, form=form, guidance=True)
  network = networks.build(config)
  key = jax.random.key(0, impl="rbg")  # compiles sooner than the default
  params = jax.jit(network.init)(key)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("f4")}
  assert not params["denoiser"]["embedding"]["emb_guidance"]["kernel"].any()
  x, t, cond = inputs(config)
  F = jax.jit(network.F)(params, x, t, cond)
  assert F.shape == x.shape and F.dtype == jnp.float32
  np.testing.assert_array_equal(F, np.zeros_like(F))


def has_attention(params, block):
  return "attention" in getattr(params["denoiser"][block], "keys", tuple)()


@pytest.mark.parametrize("form", ["trigflow", "edm2"])
def test_both_forms_have_all_levels(form, inputs):
  config = dataclasses.replace(
    TWO_LEVELS, form=form, num_classes=0, dtype=jnp.bfloat16
  )
  network = networks.build(config)
  params = network.shapes
  x, t, _ = inputs(config)
  F = jax.eval_shape(network.F, params, x, t, {})
  assert F.shape == x.shape and F.dtype == jnp.float32
  names = set(params["denoiser"])
  assert {"enc_4_down", "dec_8_up", "dec_4_in0", "dec_8_1"} <= names
  attending = {name for name in names if has_attention(params, name)}
  assert attending == {"enc_8_0", "dec_8_0", "dec_8_1", "dec_4_in0"}


def test_conditions(inputs, random_params):
  """No label is no label; guidance starts as a no-op and then acts."""
  guided = networks.build(dataclasses.replace(TINY, guidance=True))
  params = random_params(guided)
  x, t, cond = inputs(guided.config)
  F, plain = jax.jit(guided.F), jax.jit(networks.build(TINY).F)

  null = cond | {"label": networks.null_cond(TINY, len(x))["label"]}
  labelled, unlabelled = (plain(params, x, t, c) for c in (cond, null))
  assert relative(unlabelled, labelled) > 0.05
  without = jax.tree.map(jnp.copy, params)
  without["denoiser"]["embedding"]["emb_label"]["weight"] *= 0
  unlabelled_twin = plain(without, x, t, cond)
  np.testing.assert_allclose(unlabelled_twin, unlabelled, atol=1e-5)

  other = cond | {"guidance": cond["guidance"] + 0.5}
  moved = relative(F(params, x, t, other), F(params, x, t, cond))
  assert moved > 1e-3
  params["denoiser"]["embedding"]["emb_guidance"]["kernel"] *= 0  # as drawn
  np.testing.assert_allclose(F(params, x, t, other), labelled, atol=1e-5)


@pytest.mark.parametrize(
  ("largest", "sides"), [(16, {8, 4}), (4, {4}), (2, set())]
)
def test_dropout_acts_at_its_resolutions(largest, sides, inputs):
  config = dataclasses.replace(
    TWO_LEVELS, dropout=0.1, dropout_resolution=largest
  )
  network = networks.build(config)
  params = network.shapes
  seen = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, nn.Dropout):
      assert not context.module.deterministic and context.module.rate == 0.1
      seen.append(args[0].shape[1])
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    jax.eval_shape(
      lambda p, x, t, cond, key: network.F(
        p, x, t, cond, rngs={"dropout": key}, train=True
      ),
      params,
      *inputs(config),
      jax.random.key(0),
    )
  assert set(seen) == sides
  # The deepest level has five blocks (down, 1, in0, in1, 2), the other four.
  assert len(seen) == 6 * (4 in sides) + 4 * (8 in sides)
