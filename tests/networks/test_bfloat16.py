"""bfloat16 on ten blocks: tangents along sCM's direction, against float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax import networks, trigflow
from scm_jax.networks import UNetConfig
from scm_jax.objectives import tangent

TEN_BLOCKS = UNetConfig(
  resolution=8,
  in_channels=4,
  num_classes=3,
  channels=16,
  channel_mult=(1, 2),
  num_blocks=1,
  attn_resolutions=(8, 4),
  channels_per_head=16,
)
# Both ends of what training draws, and the way between.
TIMES = np.concatenate([np.geomspace(0.01, 0.5, 8), np.linspace(0.6, 1.56, 8)])


def derivative(config, params):
  """`(F, cos t sin t dF/dt)` at `TIMES`, along the samples' own trajectories.

  As in the objective: times, coefficients and the point are float32.
  """
  network = networks.build(config)
  rng = np.random.default_rng(0)
  shape = (len(TIMES), 8, 8, config.in_channels)
  x0, z = (jnp.asarray(rng.normal(0, 0.5, shape), jnp.float32) for _ in "xz")
  t = jnp.asarray(TIMES, jnp.float32)
  cond = {"label": jnp.arange(len(TIMES)) % 3}

  @jax.jit
  def both(params):
    primal = lambda u, t: network.F(params, u, t, cond)
    x_t = trigflow.interpolate(x0, z, t)
    dx_dt = trigflow.data_velocity(x0, z, t)
    return tangent.by_jvp(
      primal, tangent.Direction(x_t, dx_dt, tangent.Jump(t, 0.5))
    )

  return both(params)


def errors(given, exact):
  """Relative error of each sample."""
  axes = (1, 2, 3)
  norm = lambda x: np.sqrt(np.sum(np.square(x, dtype=np.float64), axes))
  return norm(given - exact) / norm(exact)


@pytest.mark.slow
@pytest.mark.parametrize("double_norm", ["split", "shared"])
def test_tangents(double_norm, random_params):
  config = dataclasses.replace(TEN_BLOCKS, double_norm=double_norm)
  params = random_params(networks.build(config))
  blocks = [name for name in params["denoiser"] if name[:3] in ("enc", "dec")]
  assert len(blocks) == 10
  exact = derivative(config, params)
  low = dataclasses.replace(config, dtype=jnp.bfloat16)
  given = derivative(low, params)
  for value in given:
    assert value.dtype == jnp.float32 and np.isfinite(value).all()
  values, tangents = map(errors, given, exact)
  # 2^-8 a rounding, through ten blocks; measured in BUILD_NOTES.md.
  assert values.max() < 0.02
  assert tangents.max() < 0.03
  # Neither end is worse than the middle.
  assert max(tangents[0], tangents[-1]) < 2 * np.median(tangents)
