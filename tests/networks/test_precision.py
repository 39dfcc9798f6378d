"""float32 is float32 on accelerators: read from the programs for them."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.networks import DDPMppConfig, DiTConfig, UNetConfig, autoencoder

SIZES = {
  "resolution": 8,
  "in_channels": 2,
  "num_classes": 3,
  "channels": 8,
  "channels_per_head": 8,
  "guidance": True,
}
LEVELS = SIZES | {"channel_mult": (1,), "num_blocks": 1}
LEVELS |= {"attn_resolutions": (8,)}
TOKENS = SIZES | {"depth": 3}
PLATFORMS = ("tpu", "cuda")
_TYPE = re.compile("(bf16|f16|f32)>")


def products(f, *args):
  """(types of the operands, precision or "") of a program's products.

  A list for each platform.
  """
  traced = jax.jit(f).trace(*args)
  for platform in PLATFORMS:
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    found = []
    for line in text.splitlines():
      if "stablehlo.dot_general" in line or "stablehlo.convolution" in line:
        operands = line.rpartition(" : (")[2].partition(") ->")[0]
        precision = re.findall(r"\b(HIGHEST|HIGH|DEFAULT)\b", line)
        found.append((_TYPE.findall(operands), precision))
    assert found
    yield found


def gradient_and_tangent(config):
  """Everything that a step asks of a network, and its arguments."""
  network = networks.build(config)
  params = network.shapes
  x, t = jnp.ones((2, 8, 8, 2)), jnp.ones(2)
  cond = networks.null_cond(config, 2)

  def f(params, x, t):
    def loss(params):
      F = lambda x, t: network.F(params, x, t, cond)
      output, tangent = jax.jvp(F, (x, t), (x, t))
      w = network.w(params, t)
      return jnp.sum(output * jax.lax.stop_gradient(tangent)) + jnp.sum(w)

    return jax.grad(loss)(params)

  return f, (params, x, t)


@pytest.mark.parametrize(
  "kind, sizes, dtype, attention",
  [
    (UNetConfig, LEVELS, "float32", "einsum"),
    (UNetConfig, LEVELS, "bfloat16", "chunked"),
    (DDPMppConfig, LEVELS, "float32", "chunked"),
    (DDPMppConfig, LEVELS, "bfloat16", "einsum"),
    (DiTConfig, TOKENS, "float32", "einsum"),
    (DiTConfig, TOKENS, "bfloat16", "chunked"),
  ],
)
def test_networks(kind, sizes, dtype, attention):
  """Of a bfloat16 network these are the products of its time path."""
  config = kind(**sizes, dtype=jnp.dtype(dtype), attention=attention)
  f, args = gradient_and_tangent(config)
  for found in products(f, *args):
    wide = [precision for operands, precision in found if "f32" in operands]
    narrow = [operands for operands, _ in found if "f32" not in operands]
    assert wide and all(p == ["HIGHEST", "HIGHEST"] for p in wide)
    assert bool(narrow) == (dtype == "bfloat16")


def test_precision_is_a_choice():
  config = UNetConfig(**LEVELS, precision="high")
  f, args = gradient_and_tangent(config)
  for found in products(f, *args):
    assert all(precision == ["HIGH", "HIGH"] for _, precision in found)


def test_autoencoder():
  config = autoencoder.AutoencoderConfig((8, 16), blocks=1, groups=4)
  network = autoencoder.build(config)
  params = network.shapes
  for f, x in (
    (network.encode, jnp.ones((2, 8, 8, 3))),
    (network.decode, jnp.ones((2, 4, 4, 4))),
  ):
    for found in products(f, params, x):
      for operands, precision in found:
        assert operands == ["f32", "f32"]
        assert precision == ["HIGHEST", "HIGHEST"]


@pytest.mark.parametrize(
  "kind, sizes",
  [(UNetConfig, LEVELS), (DDPMppConfig, LEVELS), (DiTConfig, TOKENS)],
)
def test_last_blocks_in_float32(kind, sizes, random_params):
  """None is the network itself; all of them all but the first layer."""
  low = kind(**sizes, dtype=jnp.dtype("bfloat16"))
  params = random_params(networks.build(low))
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 8, 8, 2)), jnp.float32)
  cond = networks.null_cond(low, 2)

  def output(**fields):
    network = networks.build(dataclasses.replace(low, **fields))
    return np.asarray(jax.jit(network.F)(params, x, jnp.ones(2), cond))

  exact = output(dtype=jnp.dtype("float32"))
  errors = [
    np.linalg.norm(output(last_float32=n) - exact)
    for n in (0, 2, len(low.dtypes()))
  ]
  assert errors[0] > errors[1] > errors[2] > 0
