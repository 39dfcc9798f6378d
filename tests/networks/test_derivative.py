"""The derivative along a trajectory, by which tangents are taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.networks import DDPMppConfig, DiTConfig, UNetConfig

TINY = {
  "in_channels": 2,
  "num_classes": 3,
  "channels": 8,
  "num_blocks": 1,
  "channels_per_head": 4,
  "dtype": jnp.float64,
}
ONE_LEVEL = TINY | {"resolution": 4, "channel_mult": (1,)}
PLAIN = ONE_LEVEL | {"attn_resolutions": ()}
ATTENDING = ONE_LEVEL | {"attn_resolutions": (4,)}
TWO_LEVELS = TINY | {
  "resolution": 8,
  "channel_mult": (1, 2),
  "attn_resolutions": (8,),
}
GUIDED = {"dropout": 0.3, "guidance": True}
TOKENS = {k: v for k, v in TINY.items() if k != "num_blocks"}
TOKENS |= {"resolution": 4, "depth": 2, "guidance": True}
PUBLISHED = {"modulation": "adaln", "norm": "layer", "mlp": "gelu"}


@pytest.mark.parametrize(
  "kind, fields",
  [
    (UNetConfig, PLAIN | {"form": "edm2", "dropout": 0.3}),
    (UNetConfig, PLAIN | GUIDED),
    pytest.param(UNetConfig, TWO_LEVELS | GUIDED, marks=pytest.mark.slow),
    (DDPMppConfig, PLAIN | {"form": "edm", "channel_mult_emb": 2}),
    (DDPMppConfig, ATTENDING | GUIDED | {"channel_mult_emb": 2}),
    (DiTConfig, TOKENS),
    (DiTConfig, TOKENS | PUBLISHED | {"qk_norm": False, "rotary": False}),
  ],
  ids=["edm2", "unet", "unet-two-levels", "edm", "ddpmpp", "dit", "dit-adaln"],
)
def test_the_derivative_is_exact(kind, fields, inputs, random_params):
  """`jax.jvp` against central differences, masks of dropout held."""
  with jax.enable_x64(True):
    network = networks.build(kind(**fields))
    params = random_params(network)
    if kind is not UNetConfig:  # whose weights are free, and would saturate
      params = jax.tree.map(lambda p: p / 4, params)
    x, t, cond = inputs(network.config, dtype=jnp.float64)
    dx = jnp.asarray(np.random.default_rng(5).normal(size=x.shape))
    dt = jnp.cos(t) * jnp.sin(t)
    rngs = {"dropout": jax.random.key(7, impl="rbg")}

    @jax.jit
    def F(x, t):
      return network.F(params, x, t, cond, rngs=rngs, train=True)

    value, tangent = jax.jit(lambda: jax.jvp(F, (x, t), (dx, dt)))()
    assert tangent.dtype == jnp.float64
    h = 1e-5
    ahead, behind = (F(x + s * dx, t + s * dt) for s in (h, -h))
    central = (ahead - behind) / (2 * h)
    norms = lambda v: np.linalg.norm(v.reshape(len(x), -1), axis=1)
    assert np.all(norms(tangent - central) <= 1e-6 * norms(central))
    # The forward pass inside the derivative is the forward pass.
    np.testing.assert_allclose(value, F(x, t), rtol=1e-10, atol=1e-12)
