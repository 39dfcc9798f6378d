"""Parameters by which a U-Net of sCM's form imitates an EDM2 network.

Two differences of form change the function that a network takes over. The time
enters by positional features of `t` in place of Fourier features of
`ln(sigma)`, so the layer that reads them is fitted to the output of EDM2's. And
a block normalises its features and their scale (Section 4.1), so with
`double_norm="gained"` its gain is set to the magnitude that the features had.
"""

from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scm_jax import networks, trigflow
from scm_jax.networks import layers, magnitude, unet

Path = tuple[str, ...]
# The fit is over times of the distribution that the students are trained on.
P_MEAN, P_STD = -0.8, 1.6
TIMES, SAMPLES = 2048, 32


def imitate(
  params: Mapping[str, Any],
  source: networks.NetworkConfig,
  target: networks.NetworkConfig,
  fetch: Callable[[Any], np.ndarray] = np.asarray,
) -> dict[Path, jax.Array | np.ndarray]:
  """Returns parameters of a target network, by path, that imitate a source.

  The networks have the same shapes. There are no such parameters unless the
  source is an EDM2 network and the target is of sCM's form. `fetch` returns a
  whole array on the host, given one on any devices.
  """
  if not isinstance(source, unet.UNetConfig) or source.form != "edm2":
    return {}
  if target.published:
    return {}
  weight = _embedding(params["denoiser"]["embedding"], source, fetch)
  found: dict[Path, Any] = {
    ("denoiser", "embedding", "emb_noise", "weight"): weight
  }
  if getattr(target, "double_norm", "") == "gained":
    for block, gain in _gains(params, source).items():
      found["denoiser", block, "modulation", "scale_gain"] = gain
  return found


def _times(number: int) -> np.ndarray:
  """Returns quantiles of ln(sigma) in the middle of `number` equal parts."""
  normal = NormalDist(P_MEAN, P_STD)
  return np.array([normal.inv_cdf((i + 0.5) / number) for i in range(number)])


def _embedding(
  old: Mapping[str, Any], config: unet.UNetConfig, fetch: Callable
) -> np.ndarray:
  """Returns the weight `[features, width]` that reads the features of `t`."""
  fourier = old["fourier"]
  leaves = old["emb_noise"]["weight"], fourier["frequencies"], fourier["phases"]
  # In float64, because the features of `t` are nearly dependent.
  weight, frequencies, phases = (
    np.asarray(fetch(leaf), np.float64) for leaf in leaves
  )
  ln_sigma = _times(TIMES)
  turns = ln_sigma[:, None] / 4 * frequencies + phases
  wanted = 2**0.5 * np.cos(2 * np.pi * turns) @ weight
  t = np.arctan(np.exp(ln_sigma) / config.sigma_d)
  features = layers.positional_features(jnp.asarray(t), config.channels)
  return on_sphere(np.asarray(features, np.float64), wanted)


def on_sphere(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Solves least squares for filters of unit root-mean-square.

  The optimum on the sphere is that of ridge regression, with the ridge that
  gives a filter its length; the ridge is found by bisection. A filter that is
  too short without any ridge is lengthened in the direction that the features
  weigh least. Returns float32 filters `[features, filters]`, with which
  `features @ filters` is near `wanted`, `[N, filters]`.
  """
  count = features.shape[1]
  left, values, right = np.linalg.svd(features, full_matrices=False)
  seen = values > 1e-6 * values[0]  # the rest is rounding
  values, along = values[seen, None], left[:, seen].T @ wanted

  def solve(ridge):
    return values * along / (values**2 + ridge)

  low, high = np.full((2, wanted.shape[1]), [[1e-12], [1e12]])
  for _ in range(100):
    middle = np.sqrt(low * high)
    long = np.sum(solve(middle) ** 2, axis=0) > count
    low, high = np.where(long, middle, low), np.where(long, high, middle)
  filters = right[seen].T @ solve(high)
  short = np.maximum(count - np.sum(filters**2, axis=0), 0.0)
  unseen = right[-1] if not seen.all() else np.zeros(count)
  filters += unseen[:, None] * np.sqrt(short)
  rms = np.sqrt(np.mean(filters**2, axis=0))
  return (filters / rms).astype(np.float32)


def _gains(
  params: Mapping[str, Any], config: networks.NetworkConfig
) -> dict[str, jax.Array]:
  """Returns, by block, how much larger features are than normalised ones."""
  network = networks.build(config)
  side, channels = config.resolution, config.in_channels
  sigma = jnp.exp(jnp.asarray(_times(SAMPLES), jnp.float32))
  t = trigflow.sigma_to_time(sigma, config.sigma_d)
  cond = networks.null_cond(config, SAMPLES)
  if config.num_classes:
    cond["label"] = jnp.arange(SAMPLES) % config.num_classes

  def measure(params):
    found = {}

    def interceptor(call, arguments, keywords, context):
      result = call(*arguments, **keywords)
      if isinstance(context.module, unet.Modulation):
        normal = _normalized(context.module.variables["params"], *arguments)
        # The gain of least squares.
        gain = jnp.sum(result * normal) / jnp.sum(normal**2)
        found[context.module.path[0]] = gain
      return result

    # No data are at hand; magnitudes on them differ little (docs/configs.md).
    shape = (SAMPLES, side, side, channels)
    noise = jax.random.normal(jax.random.key(0), shape)
    with nn.intercept_methods(interceptor):
      network.F(params, noise, t, cond)
    return found

  return jax.jit(measure)(params)


def _normalized(params: Mapping[str, Any], y: jax.Array, emb: jax.Array):
  """Returns a block's features times their scale, both normalised."""
  weight = params["emb"]["weight"]
  scale = params["gain"] * (emb @ weight) / len(weight) ** 0.5 + 1
  y, scale = magnitude.pixel_norm(y), magnitude.pixel_norm(scale)
  return y.astype(jnp.float32) * scale[:, None, None, :]
