"""Random weights and inputs for tiny networks."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.networks import magnitude


@pytest.fixture
def random_params(random_weights) -> Callable[[networks.Network], Any]:
  """Gives a network weights on their spheres, none of its gains zero."""

  def draw(network):
    dtype = network.config.dtype
    if dtype == jnp.bfloat16:
      dtype = jnp.float32
    params = random_weights(network.shapes, dtype=dtype)
    if "out_gain" in params["denoiser"]:
      params["denoiser"]["out_gain"] = jnp.ones((), dtype)
    return magnitude.normalize_weights(params)

  return draw


@pytest.fixture
def inputs() -> Callable:
  """`inputs(config)`: noisy samples, times and conditions of three."""

  def draw(config, dtype=jnp.float32):
    rng = np.random.default_rng(1)
    shape = (3, config.resolution, config.resolution, config.in_channels)
    cond = {"label": jnp.arange(3) % 3}
    if config.guidance:
      cond["guidance"] = jnp.linspace(1, 2, 3, dtype=dtype)
    t = jnp.linspace(0.2, 1.4, 3, dtype=dtype)
    return jnp.asarray(rng.normal(size=shape), dtype), t, cond

  return draw
