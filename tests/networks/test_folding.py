"""Folded weights give the same output, and nothing is left to do with them."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from scm_jax import networks
from scm_jax.networks.folding import ROWS, Folded, Joined, by_product

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
FEW, MANY = 1, 64  # images at once
LOW = {"dtype": jnp.dtype("bfloat16")}
FORMS = [
  dataclasses.replace(CONFIG, **fields)
  for fields in (
    {"double_norm": "split"},
    {"double_norm": "gained"},
    {"form": "edm2", "guidance": False},
    LOW,
    LOW | {"last_float32": 2},
  )
]
TOKENS = networks.DiTConfig(
  resolution=8,
  in_channels=2,
  num_classes=3,
  channels=16,
  channels_per_head=8,
  depth=3,
  **LOW,
)


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


def convolutions(network, params, *arguments):
  text = str(jax.make_jaxpr(network.F)(params, *arguments))
  return text.count("conv_general_dilated[")


def types(params):
  return {str(weight.value.dtype) for weight in weights(params)}


@pytest.mark.parametrize(
  "config", [*FORMS, TOKENS, dataclasses.replace(TOKENS, last_float32=1)]
)
def test_the_output_is_the_same(config, random_params):
  """To the bit where the order of axes stays; else up to rounding."""
  network = networks.build(config)
  params = random_params(network)
  F = jax.jit(network.F)
  wanted = F(params, *inputs(config))
  fold = jax.jit(network.fold, static_argnums=(1, 2))
  np.testing.assert_array_equal(
    F(fold(params, "cpu", 2), *inputs(config)), wanted
  )
  tolerance = 1e-5 if config.dtype == jnp.float32 else 0.1
  for batch in FEW, MANY:
    there = F(fold(params, "gpu", batch), *inputs(config))
    np.testing.assert_allclose(there, wanted, atol=tolerance)


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
    for p in (
      params,
      network.fold(params, "cpu", MANY),
      network.fold(params, "gpu", MANY),
    )
  )
  assert raw == cpu == gpu + fewer


def test_filters_lie_as_the_platform_reads_them(random_params):
  network = networks.build(CONFIG)
  params = random_params(network)
  raw = params["denoiser"]["conv_in"]["weight"]
  there = network.fold(params, "gpu", MANY)["denoiser"]["conv_in"]["weight"]
  np.testing.assert_allclose(
    there.value, raw.transpose(3, 0, 1, 2) / raw[..., 0].size ** 0.5, rtol=1e-6
  )


def test_few_positions_are_convolved_by_one_product(random_params):
  """Those of many are not, even if the filters were folded for few."""
  config = dataclasses.replace(CONFIG, channel_mult=(8, 16))
  network = networks.build(config)
  params = random_params(network)
  x, t, cond = inputs(config)
  few = x[:1], t[:1], {name: value[:1] for name, value in cond.items()}
  many = jax.tree.map(lambda leaf: jnp.repeat(leaf, MANY, axis=0), few)
  folded = network.fold(params, "gpu", 1)
  found = weights(folded)
  axes = collections.Counter(w.axes for w in found if isinstance(w, Folded))
  convolved = axes["OHWI"] + axes[ROWS]
  assert axes["OHWI"] == 1  # of the first layer, which has three channels
  assert convolutions(network, params, *few) == convolved
  assert convolutions(network, folded, *few) == axes["OHWI"]
  assert convolutions(network, folded, *many) == convolved
  for arguments in few, many:
    wanted = network.F(params, *arguments)
    found = network.F(folded, *arguments)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (3, 3), (5, 3)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 4)])
def test_a_product_convolves(kernel, shape):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(*shape, 4)), jnp.float32)
  w = jnp.asarray(rng.normal(size=(*kernel, 6, 4)), jnp.float32)
  conv = lambda x, w: lax.conv_general_dilated(
    x, w, (1, 1), "SAME", dimension_numbers=("NHWC", ROWS, "NHWC")
  )
  wanted = conv(x, w)
  np.testing.assert_allclose(by_product(x, w), wanted, atol=1e-4)
  narrow = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
  exact = conv(*(a.astype(jnp.float32) for a in narrow))
  found = by_product(*narrow)
  assert found.dtype == jnp.bfloat16
  # The sum of rounded results is about as wrong as a rounded sum.
  error = lambda y: float(jnp.sqrt(jnp.mean((y - exact) ** 2)))
  assert error(found) < 2 * error(exact.astype(jnp.bfloat16))


def test_weights_have_the_type_that_their_layer_computes_in(random_params):
  """What is not cast in a call is not copied; the time path is float32."""
  config = dataclasses.replace(CONFIG, dtype=jnp.dtype("bfloat16"))
  network = networks.build(config)
  folded = network.fold(random_params(network), "cpu", 1)["denoiser"]
  assert types(folded["embedding"]) == {"float32"}
  block = dict(folded["enc_8_0"])
  modulation = block.pop("modulation")
  assert types(modulation) == {"float32"}
  assert types(block) == {"bfloat16"}


def test_products_of_tokens_are_cast_once(random_params):
  network = networks.build(dataclasses.replace(TOKENS, last_float32=1))
  folded = network.fold(random_params(network), "gpu", 1)["denoiser"]
  types = [folded[f"block_{i}"]["mlp"]["fc1"]["weight"].dtype for i in range(3)]
  assert types == ["bfloat16", "bfloat16", "float32"]
  assert folded["embedding"]["emb_hidden"]["weight"].dtype == "float32"


def test_folding_twice_is_folding_once(random_params):
  network = networks.build(CONFIG)
  once = network.fold(random_params(network), "gpu", 1)
  twice = network.fold(once, "gpu", 1)
  assert all(a is b for a, b in zip(weights(once), weights(twice), strict=True))


def test_a_network_of_free_weights_has_nothing_to_fold():
  config = networks.DDPMppConfig(resolution=8, in_channels=1)
  assert networks.build(config).fold is None
