"""Transformers: what they start as, are told, and refuse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.errors import ConfigError
from scm_jax.networks import DiTConfig, dit, presets

TINY = DiTConfig(
  resolution=8,
  in_channels=2,
  num_classes=3,
  channels=16,
  depth=2,
  channels_per_head=8,
  target=True,
  guidance=True,
)
PUBLISHED = dataclasses.replace(TINY, **presets.DIT_LAYERS)


@pytest.mark.parametrize("config", [TINY, PUBLISHED])
def test_starts_at_zero_and_calm(config, inputs):
  """Neither its value nor its derivative along a trajectory is anything."""
  network = networks.build(config)
  params = jax.jit(network.init)(jax.random.key(0, impl="rbg"))
  x, t, cond = inputs(config)
  cond = networks.null_cond(config, len(x)) | cond
  F = lambda x, t: network.F(params, x, t, cond)
  value, tangent = jax.jit(lambda: jax.jvp(F, (x, t), (x, t)))()
  assert value.shape == x.shape and value.dtype == jnp.float32
  np.testing.assert_array_equal(value, 0)
  np.testing.assert_array_equal(tangent, 0)


@pytest.mark.parametrize("config", [TINY, PUBLISHED])
def test_every_parameter_learns_at_once(config, inputs, random_params):
  """None is idle once the outputs are not zero, but what nobody is told."""
  network = networks.build(config)
  params = random_params(network)
  x, t, cond = inputs(config)
  cond = networks.null_cond(config, len(x)) | cond

  def loss(params):
    return jnp.sum(jnp.sin(network.F(params, x, t, cond)))

  gradient = jax.jit(jax.grad(loss))(params)["denoiser"]
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.abs(leaf).max() > 0, path


def test_conditions(inputs, random_params):
  """All of them act; those of a student are nothing at first."""
  network = networks.build(TINY)
  params = random_params(network)
  x, t, cond = inputs(TINY)
  cond = networks.null_cond(TINY, len(x)) | cond
  F = jax.jit(network.F)
  output = F(params, x, t, cond)
  null = networks.null_cond(TINY, len(x))["label"]
  others = {
    "label": null,
    "guidance": cond["guidance"] + 0.5,
    "target": cond["target"] + 0.3,
  }
  for name, other in others.items():
    assert np.abs(F(params, x, t, cond | {name: other}) - output).max() > 1e-3
  embedding = params["denoiser"]["embedding"]
  fresh = jax.jit(network.init)(jax.random.key(0, impl="rbg"))
  for name in ("guidance", "target"):
    drawn = fresh["denoiser"]["embedding"][f"emb_{name}"]
    embedding[f"emb_{name}"] = jax.tree.map(jnp.zeros_like, drawn)
    np.testing.assert_array_equal(drawn["weight"], 0)
  output = F(params, x, t, cond)
  for name in ("guidance", "target"):
    same = F(params, x, t, cond | {name: others[name]})
    np.testing.assert_array_equal(same, output)


def test_rotated_products_depend_on_distances(random_weights):
  """Moving both tokens by the same number of rows and columns is nothing."""
  side, width = 5, 8
  q, k = random_weights([np.zeros((1, 1, 1, width))] * 2)
  everywhere = lambda x: jnp.broadcast_to(x, (1, side**2, 1, width))
  turned = [
    np.asarray(dit.rotated(everywhere(x), side)).reshape(side, side, width)
    for x in (q, k)
  ]
  product = lambda a, b: turned[0][a] @ turned[1][b]
  here, there = product((0, 1), (2, 2)), product((2, 3), (4, 4))
  np.testing.assert_allclose(here, there, rtol=1e-5)
  assert abs(here - product((0, 1), (2, 3))) > 1e-2
  assert abs(here - product((0, 1), (3, 2))) > 1e-2
  norms = np.linalg.norm(turned[0], axis=-1)
  np.testing.assert_allclose(norms, np.linalg.norm(q), rtol=1e-5)


@pytest.mark.parametrize("attention", ["einsum", "chunked"])
def test_tokens_without_places_are_a_set(attention, random_params, monkeypatch):
  """Only positions tell tokens apart: without them, permuting permutes."""
  config = dataclasses.replace(
    TINY,
    patch=1,
    rotary=False,
    attention=attention,
    guidance=False,
    target=False,
  )
  network = networks.build(config)
  params = random_params(network)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(1, 8, 8, 2)), jnp.float32)
  order = rng.permutation(64)
  mixed = x.reshape(1, 64, 2)[:, order].reshape(x.shape)
  ask = lambda x: network.F(
    params, x, jnp.ones(1), {"label": jnp.zeros(1, int)}
  )
  scale = np.std(ask(x))

  def difference():
    """How far the permuted output is from that of permuted tokens."""
    of_mixed = np.asarray(ask(mixed)).reshape(64, 2)
    return np.abs(np.asarray(ask(x)).reshape(64, 2)[order] - of_mixed).max()

  assert difference() > 1e-2 * scale
  monkeypatch.setattr(dit, "positions", lambda side, n: jnp.zeros((side**2, n)))
  assert difference() < 1e-5 * scale


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"patch": 3}, "patch is 3, but the data's size of 8"),
    ({"channels": 20}, "channels is 20, which cannot be divided"),
    ({"channels": 12, "channels_per_head": 6}, "it must be a multiple of 4"),
    ({"depth": 0}, "depth is 0; it must be 1 or more"),
    ({"form": "edm2"}, "form is 'edm2'"),
  ],
)
def test_what_makes_no_network(fields, said):
  with pytest.raises(ConfigError, match=said):
    dataclasses.replace(TINY, **fields)
