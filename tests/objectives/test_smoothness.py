"""Derivative norms, and EDM2's time embedding beside sCM's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from scm_jax import networks, trigflow
from scm_jax.networks import magnitude

SIGMA_D = 0.5


def derivative_norms(
  F: Callable,
  x0: Array,
  z: Array,
  times: Array,
  cond: dict[str, Array],
  sigma_d: float,
) -> dict[str, Array]:
  """Root-mean-squares of a network and its derivatives by time.

  Args:
    F: `F(x, t, cond)`, parameters bound.
    x0: data `[B, ...]`.
    z: noise from `N(0, sigma_d^2 I)`, like `x0`.
    times: radians `[T]`, each of which all samples are taken to.
    cond: condition of the batch.
    sigma_d: the data's standard deviation.

  Returns:
    Arrays `[T]`: `F` itself; `by_time`, `sin(t) dF/dt` of the time input alone;
    `along`, the same along the sample's trajectory.
  """

  def at(time):
    t = jnp.full(len(x0), time)
    x_t = trigflow.interpolate(x0, z, t)
    dx_dt = trigflow.data_velocity(x0, z, t)
    derive = lambda direction, rate: jax.jvp(
      lambda u, t: F(u, t, cond), (x_t / sigma_d, t), (direction, rate)
    )
    rate = jnp.sin(t)
    output, by_time = derive(jnp.zeros_like(x_t), rate)
    _, along = derive(trigflow.expand(rate, x_t) * dx_dt / sigma_d, rate)
    rms = lambda v: jnp.sqrt(jnp.mean(jnp.square(v)))
    return {"F": rms(output), "by_time": rms(by_time), "along": rms(along)}

  return jax.lax.map(at, times)


def data(channels=2, side=4, batch=64):
  rng = np.random.default_rng(0)
  shape = (batch, side, side, channels)
  draw = lambda: jnp.asarray(SIGMA_D * rng.normal(size=shape), jnp.float32)
  return draw(), draw()


def test_a_closed_form():
  """`F = t u`: the derivative by time is `u`, along it `u + t du/dt`."""
  x0, z = data()
  times = jnp.array([0.3, 1.2])
  F = lambda u, t, cond: t[:, None, None, None] * u
  norms = derivative_norms(F, x0, z, times, {}, SIGMA_D)
  rms = lambda v: np.sqrt(np.mean(np.square(v)))
  for i, t in enumerate(times):
    u = (np.cos(t) * x0 + np.sin(t) * z) / SIGMA_D
    du = (np.cos(t) * z - np.sin(t) * x0) / SIGMA_D
    expected = {"F": t * u, "by_time": u, "along": u + t * du}
    for name, value in expected.items():
      scale = 1 if name == "F" else np.sin(t)
      np.testing.assert_allclose(norms[name][i], rms(scale * value), rtol=1e-5)


def norms_of(form, times):
  """Of a random network whose modulations act."""
  config = networks.UNetConfig(
    resolution=4,
    in_channels=2,
    form=form,
    double_norm="shared",
    channels=32,
    channel_mult=(1,),
    num_blocks=1,
    attn_resolutions=(),
    channels_per_head=32,
  )
  network = networks.build(config)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
    network.shapes,
  )
  params = magnitude.normalize_weights(params)
  for block in params["denoiser"].values():
    if "modulation" in getattr(block, "keys", dict)():
      block["modulation"]["gain"] = jnp.float32(0.5)
  params["denoiser"]["out_gain"] = jnp.float32(1.0)
  F = lambda x, t, cond: network.F(params, x, t, cond)
  return jax.jit(lambda: derivative_norms(F, *data(), times, {}, SIGMA_D))()


@pytest.mark.slow
def test_the_log_noise_embedding_explodes_and_positional_does_not():
  times = jnp.array([0.01, 0.8, 1.56])
  fourier, positional = (norms_of(f, times) for f in ("edm2", "trigflow"))
  edm2, ours = (n["by_time"] / n["F"] for n in (fourier, positional))
  # sin(t) dc_noise/dt = 1 / (4 cos t): 23 at t = 1.56, 0.36 at 0.8.
  assert edm2[2] > 30 * edm2[1] and edm2[2] > 20
  assert ours.max() < 1
  # sin(t) hides the other end, where dF/dt itself has no bound.
  assert edm2[0] > 10 * ours[0]
