"""DDPM++: what it computes, what it starts as, and its derivative."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.networks import DDPMppConfig, ddpmpp, magnitude

TINY = DDPMppConfig(
  resolution=8,
  in_channels=2,
  num_classes=3,
  channels=8,
  channel_mult=(1, 2),
  channel_mult_emb=2,
  num_blocks=1,
  attn_resolutions=(8,),
  channels_per_head=4,
)
ONE_LEVEL = dataclasses.replace(TINY, resolution=4, channel_mult=(1,))


@pytest.mark.parametrize("form", ["trigflow", "edm"])
def test_starts_at_almost_zero(form, inputs):
  network = networks.build(dataclasses.replace(ONE_LEVEL, form=form))
  params = jax.jit(network.init)(jax.random.key(0, impl="rbg"))
  x, t, cond = inputs(ONE_LEVEL)
  F = jax.jit(network.F)(params, x, t, cond)
  assert F.shape == x.shape and F.dtype == jnp.float32
  assert 0 < np.abs(F).max() < 1e-3
  # Its weights are free: what keeps EDM2's on their sphere leaves them alone.
  same = jax.tree.map(
    np.array_equal, magnitude.normalize_weights(params), params
  )
  assert all(jax.tree.leaves(same))


def test_is_told_of_augmentation(inputs, random_params):
  """A new network does not heed it; a trained one does, and zero is nothing."""
  network = networks.build(dataclasses.replace(ONE_LEVEL, augment=True))
  x, t, cond = inputs(ONE_LEVEL)
  told = jnp.asarray(np.random.default_rng(2).normal(size=(3, 9)), jnp.float32)
  F = jax.jit(network.F)
  ask = lambda params, told: F(params, x, t, cond | {"augment": told})
  fresh = jax.jit(network.init)(jax.random.key(0, impl="rbg"))
  np.testing.assert_array_equal(ask(fresh, told), ask(fresh, 0 * told))
  params = random_params(network)
  assert not np.allclose(ask(params, told), ask(params, 0 * told), rtol=1e-2)
  without = {**params, "denoiser": {**params["denoiser"]}}
  embedding = without["denoiser"]["embedding"]
  without["denoiser"]["embedding"] = {
    name: part for name, part in embedding.items() if name != "emb_augment"
  }
  plain = jax.jit(networks.build(ONE_LEVEL).F)(without, x, t, cond)
  np.testing.assert_array_equal(ask(params, 0 * told), plain)


def test_where_it_attends():
  denoiser = networks.build(TINY).shapes["denoiser"]
  attends = {name for name in denoiser if "attention" in denoiser[name]}
  # Every encoder block of the level, but only the last of the decoder.
  assert attends == {"enc_8_0", "dec_8_1", "dec_4_in0"}
  published = networks.build(dataclasses.replace(TINY, form="edm")).shapes
  widths = lambda params: params["denoiser"]["enc_8_0"]["emb"]["kernel"].shape
  assert widths({"denoiser": denoiser}) == (16, 16)
  assert widths(published) == (16, 8)


def group_norm(x, scale, bias, groups):
  split = x.reshape(*x.shape[:3], groups, -1)
  mean = split.mean((1, 2, 4), keepdims=True)
  variance = split.var((1, 2, 4), keepdims=True)
  normal = (split - mean) / np.sqrt(variance + 1e-6)
  return normal.reshape(x.shape) * scale + bias


def convolve(x, kernel, bias):
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  height, width = x.shape[1:3]
  shifts = [(i, j) for i in range(3) for j in range(3)]
  return bias + sum(
    padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in shifts
  )


def silu(x):
  return x / (1 + np.exp(-x))


def rms(x):
  return np.sqrt(np.mean(x**2, axis=-1, keepdims=True))


@pytest.mark.parametrize("form", ["trigflow", "edm"])
def test_a_block_written_out(form):
  """One block that halves its input, against NumPy."""
  config = dataclasses.replace(TINY, form=form)
  block = ddpmpp.Block(config, features=16, mode="down")
  rng = np.random.default_rng(2)
  x, emb = rng.normal(size=(2, 4, 4, 8)), rng.normal(size=(2, 6))
  arguments = (jnp.asarray(x, "f4"), jnp.asarray(emb, "f4"), False)
  shapes = jax.eval_shape(
    lambda key: block.init(key, *arguments), jax.random.key(0)
  )
  p = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes["params"])

  mean = lambda v: v.reshape(2, 2, 2, 2, 2, 8).mean((2, 4))
  y = silu(group_norm(x, **p["norm0"], groups=2))
  y = convolve(mean(y), **p["conv0"])
  both = (emb @ p["emb"]["kernel"] + p["emb"]["bias"])[:, None, None]
  if form == "edm":
    y = group_norm(y + both, **p["norm1"], groups=4)
  else:
    scale, shift = np.split(both, 2, axis=-1)
    y = group_norm(y, **p["norm1"], groups=4)
    y = y * scale / rms(scale) + shift / rms(shift)
  y = convolve(silu(y), **p["conv1"])
  skip = mean(x) @ p["skip"]["kernel"][0, 0] + p["skip"]["bias"]
  wanted = (skip + y) / 2**0.5

  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, "f4"), p)
  given = block.apply({"params": params}, *arguments)
  np.testing.assert_allclose(given, wanted, rtol=2e-3, atol=2e-3)


def test_conditions(inputs, random_params):
  """The label acts; guidance starts as a no-op and then acts."""
  guided = networks.build(dataclasses.replace(ONE_LEVEL, guidance=True))
  drawn = guided.shapes["denoiser"]["embedding"]
  assert drawn["emb_guidance"]["kernel"].shape == (8, 8)
  params = random_params(guided)
  x, t, cond = inputs(guided.config)
  F = jax.jit(guided.F)
  labelled = F(params, x, t, cond)
  null = cond | {"label": networks.null_cond(ONE_LEVEL, len(x))["label"]}
  assert np.abs(F(params, x, t, null) - labelled).max() > 1e-2
  other = cond | {"guidance": cond["guidance"] + 0.5}
  assert np.abs(F(params, x, t, other) - labelled).max() > 1e-3
  params["denoiser"]["embedding"]["emb_guidance"]["kernel"] *= 0
  zeroed = [F(params, x, t, c) for c in (cond, other)]
  np.testing.assert_array_equal(*zeroed)
