"""configs/images.py, for pictures of each size."""

import jax
import jax.numpy as jnp
import pytest

from scm_jax import networks
from scm_jax.training import resolve


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_each_size_has_a_network_that_fits_it(load, size, classes):
  """It takes the pictures, and has at most 8x8 pixels at its innermost."""
  run = resolve.resolve(load("images", f"size={size},classes={classes}"))
  network = networks.build(run.network)
  params = network.shapes
  x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  t = jax.ShapeDtypeStruct((2,), jnp.float32)
  label = jax.ShapeDtypeStruct((2,), jnp.int32)
  cond = {"label": label} if classes else {}
  assert jax.eval_shape(network.F, params, x, t, cond) == x
  assert run.network.sides[-1] <= 8
