"""What `build` makes of a config: TrigFlow's functions, whatever the form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.errors import ConfigError
from scm_jax.networks import DDPMppConfig, UNetConfig, weighting

TINY = {
  "resolution": 4,
  "in_channels": 2,
  "channels": 8,
  "channel_mult": (1,),
  "channel_mult_emb": 1,
  "num_blocks": 1,
  "attn_resolutions": (),
  "sigma_d": 0.7,
}
T = jnp.array([0.01, 0.7, 1.56])
C_NOISE = np.log(0.7 * np.tan(np.asarray(T, np.float64))) / 4


@pytest.mark.parametrize(
  ("kind", "form"), [(UNetConfig, "edm2"), (DDPMppConfig, "edm")]
)
def test_published_forms_are_asked_as_trigflow(kind, form, random_params):
  """`F(u, t) = -F_edm(u, ln(sigma_d tan t) / 4)`."""
  config = kind(form=form, **TINY)
  network = networks.build(config)
  params = random_params(network)
  u = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 4, 2)), "f4")
  module = networks.FAMILIES[networks.family_name(config)].module
  variables = {"params": params["denoiser"]}
  raw = jax.jit(lambda c: module(config).apply(variables, u, c, {}))
  F = jax.jit(network.F)(params, u, T, {})
  np.testing.assert_allclose(
    F, -raw(jnp.asarray(C_NOISE, "f4")), rtol=1e-4, atol=1e-5
  )
  # The noise level matters: t itself in its place is another network.
  assert not np.allclose(F, -raw(T), rtol=1e-2)

  head = weighting.Weighting(config.weighting_head)
  at_noise = head.apply(
    {"params": params["weighting"]}, jnp.asarray(C_NOISE, "f4")
  )
  np.testing.assert_allclose(network.w(params, T), at_noise, atol=1e-5)


def test_a_form_of_another_family_is_refused():
  for kind, form in ((UNetConfig, "edm"), (DDPMppConfig, "edm2")):
    with pytest.raises(ConfigError, match=f"form is '{form}'"):
      kind(form=form, **TINY)


def test_equal_configs_share_their_functions():
  config = UNetConfig(**TINY)
  assert networks.build(config) is networks.build(UNetConfig(**TINY))
  other = dataclasses.replace(config, sigma_d=0.5)
  assert networks.build(config) is not networks.build(other)
  twin = networks.build(DDPMppConfig(**TINY))
  assert isinstance(twin.config, DDPMppConfig)


def test_the_shared_double_norm_has_both_scale_and_shift(random_params):
  """EDM2's one layer gives a scale near 1, by its gain, and the shift."""
  config = UNetConfig(double_norm="shared", **TINY)
  network = networks.build(config)
  params = random_params(network)
  u = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 4, 2)), "f4")
  F = jax.jit(network.F)
  with_gains = F(params, u, T, {})
  flat = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf * (path[-1].key != "gain"), params
  )
  without = F(flat, u, T, {})
  assert np.linalg.norm(with_gains - without) > 0.05 * np.linalg.norm(without)
  # Even then the shift carries the time.
  moved = F(flat, u, T + 0.3, {})
  assert np.linalg.norm(moved - without) > 1e-3 * np.linalg.norm(without)
