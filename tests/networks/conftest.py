"""Tiny networks with random weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks
from scm_jax.networks import magnitude


@pytest.fixture
def random_params() -> Callable[[networks.Network], Any]:
  """Gives a network weights on their spheres, none of its gains zero."""

  def draw(network):
    rng = np.random.default_rng(0)
    shapes = network.shapes
    dtype = network.config.dtype
    if dtype == jnp.bfloat16:
      dtype = jnp.float32
    params = jax.tree.map(
      lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype), shapes
    )
    if "out_gain" in params["denoiser"]:
      params["denoiser"]["out_gain"] = jnp.ones((), dtype)
    return magnitude.normalize_weights(params)

  return draw
