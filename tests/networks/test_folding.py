"""Folded weights give the same output, and nothing is left to do with them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.networks.folding import Folded, Joined

CONFIG = networks.UNetConfig(
  resolution=8,
  in_channels=2,
  num_classes=3,
  guidance=True,
  channels=8,
  channel_mult=(1, 2),
  num_blocks=1,
  attn_resolutions=(4,),
  channels_per_head=8,
)
FORMS = [
  {"double_norm": "split"},
  {"double_norm": "gained"},
  {"form": "edm2", "guidance": False},
  {"dtype": jnp.dtype("bfloat16")},
  {"dtype": jnp.dtype("bfloat16"), "last_float32": 2},
]


def inputs(config):
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.normal(size=(2, 8, 8, 2)), jnp.float32)
  cond = networks.null_cond(config, 2) | {"label": jnp.array([0, 2])}
  return x, jnp.array([0.3, 1.2]), cond


def weights(params):
  folded = lambda x: isinstance(x, Folded | Joined)
  return list(filter(folded, jax.tree.leaves(params, is_leaf=folded)))


def products(network, params, *arguments):
  text = str(jax.make_jaxpr(network.F)(params, *arguments))
  return text.count("dot_general[")


def types(params):
  return {str(weight.value.dtype) for weight in weights(params)}


@pytest.mark.parametrize("fields", FORMS)
def test_the_output_is_the_same(fields, random_params):
  """To the bit where the order of axes stays; else up to rounding."""
  config = dataclasses.replace(CONFIG, **fields)
  network = networks.build(config)
  params = random_params(network)
  F = jax.jit(network.F)
  wanted = F(params, *inputs(config))
  here = F(
    jax.jit(network.fold, static_argnums=1)(params, "cpu"), *inputs(config)
  )
  np.testing.assert_array_equal(here, wanted)
  there = network.fold(params, "gpu")
  np.testing.assert_allclose(
    F(there, *inputs(config)),
    wanted,
    atol=1e-5 if config.dtype == jnp.float32 else 0.1,
  )


@pytest.mark.parametrize(
  ("double_norm", "fewer"), [("split", 8), ("gained", 0)]
)
def test_modulations_of_one_width_are_one_product(
  double_norm, fewer, random_params
):
  """Ten blocks have two widths; only the split form is joined."""
  config = dataclasses.replace(CONFIG, double_norm=double_norm)
  assert len(config.blocks) == 10
  network = networks.build(config)
  params = random_params(network)
  raw, cpu, gpu = (
    products(network, p, *inputs(config))
    for p in (params, network.fold(params, "cpu"), network.fold(params, "gpu"))
  )
  assert raw == cpu == gpu + fewer


def test_filters_lie_as_the_platform_reads_them(random_params):
  network = networks.build(CONFIG)
  params = random_params(network)
  raw = params["denoiser"]["conv_in"]["weight"]
  there = network.fold(params, "gpu")["denoiser"]["conv_in"]["weight"]
  np.testing.assert_allclose(
    there.value, raw.transpose(3, 0, 1, 2) / raw[..., 0].size ** 0.5, rtol=1e-6
  )


def test_weights_have_the_type_that_their_layer_computes_in(random_params):
  """What is not cast in a call is not copied; the time path is float32."""
  config = dataclasses.replace(CONFIG, dtype=jnp.dtype("bfloat16"))
  network = networks.build(config)
  folded = network.fold(random_params(network), "cpu")["denoiser"]
  assert types(folded["embedding"]) == {"float32"}
  block = dict(folded["enc_8_0"])
  modulation = block.pop("modulation")
  assert types(modulation) == {"float32"}
  assert types(block) == {"bfloat16"}


def test_folding_twice_is_folding_once(random_params):
  network = networks.build(CONFIG)
  once = network.fold(random_params(network), "gpu")
  twice = network.fold(once, "gpu")
  assert all(a is b for a, b in zip(weights(once), weights(twice), strict=True))


def test_a_network_of_free_weights_has_nothing_to_fold():
  config = networks.DDPMppConfig(resolution=8, in_channels=1)
  assert networks.build(config).fold is None
