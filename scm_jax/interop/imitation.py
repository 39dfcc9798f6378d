"""What a U-Net of sCM's form can imitate of one of EDM2's that it starts from.

Two things keep the imported function from surviving the change of form. The
time enters by positional features of `t` instead of Fourier features of
`ln(sigma)`; and a block normalises its features and their scale (Section 4.1),
where EDM2's blocks have magnitudes of their own. Both are met here as far as
the form allows: the layer on the time's features is fitted to the old one's
output, and with `double_norm="gained"` a block's gain is the magnitude that its
features had.
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
# Times of training, of which the imitation is asked: the students' proposal.
P_MEAN, P_STD = -0.8, 1.6
TIMES, SAMPLES = 2048, 32


def imitate(
  params: Mapping[str, Any],
  source: networks.NetworkConfig,
  target: networks.NetworkConfig,
  fetch: Callable[[Any], np.ndarray] = np.asarray,
) -> dict[Path, jax.Array | np.ndarray]:
  """Parameters of `target`, by their paths, that imitate `source`.

  Args:
    params: of the source.
    source: its config.
    target: of the network that starts from it, of the same shapes.
    fetch: brings one array to the host, whole, wherever it lies.

  Returns:
    Nothing unless an EDM2 network becomes one of sCM's form.
  """
  if not isinstance(source, unet.UNetConfig):
    return {}
  if source.form != "edm2" or target.published:
    return {}
  found: dict[Path, Any] = {
    ("denoiser", "embedding", "emb_noise", "weight"): _embedding(
      params["denoiser"]["embedding"], source, fetch
    )
  }
  if getattr(target, "double_norm", "") == "gained":
    for block, gain in _gains(params, source).items():
      found["denoiser", block, "modulation", "scale_gain"] = gain
  return found


def _times(number: int) -> np.ndarray:
  """Logarithms of sigma that cut the proposal into equal parts."""
  normal = NormalDist(P_MEAN, P_STD)
  return np.array([normal.inv_cdf((i + 0.5) / number) for i in range(number)])


def _embedding(
  old: Mapping[str, Any], config: unet.UNetConfig, fetch: Callable
) -> np.ndarray:
  """The weight `[features, width]` that gives `old`'s output of `t`'s features.

  Fitted in float64, since features of `t` are nearly dependent.
  """
  weight, frequencies, phases = (
    np.asarray(fetch(leaf), np.float64)
    for leaf in (
      old["emb_noise"]["weight"],
      old["fourier"]["frequencies"],
      old["fourier"]["phases"],
    )
  )
  ln_sigma = _times(TIMES)
  turns = ln_sigma[:, None] / 4 * frequencies + phases
  wanted = 2**0.5 * np.cos(2 * np.pi * turns) @ weight
  t = np.arctan(np.exp(ln_sigma) / config.sigma_d)
  features = layers.positional_features(jnp.asarray(t), config.channels)
  return on_sphere(np.asarray(features, np.float64), wanted)


def on_sphere(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Least squares for filters of unit root-mean-square.

  Args:
    features: `[N, features]`.
    wanted: `[N, filters]`, of what `features @ result` should be.

  Returns:
    The filters `[features, filters]`. On the sphere the optimum is that of
    ridge regression with as much ridge as brings a filter to its length, which
    is found by bisection; where it is too short without, what the features do
    not see makes up its length.
  """
  count = features.shape[1]
  left, values, right = np.linalg.svd(features, full_matrices=False)
  seen = values > 1e-6 * values[0]  # the rest is rounding
  values, along = values[seen, None], left[:, seen].T @ wanted
  solve = lambda ridge: values * along / (values**2 + ridge)
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
  """By blocks' names, how much larger features are than normalised ones.

  Of noise at all times, since no data are at hand; their magnitudes differ
  little (docs/configs.md).
  """
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
        # Least squares.
        gain = jnp.sum(result * normal) / jnp.sum(normal**2)
        found[context.module.path[0]] = gain
      return result

    noise = jax.random.normal(
      jax.random.key(0), (SAMPLES, side, side, channels)
    )
    with nn.intercept_methods(interceptor):
      network.F(params, noise, t, cond)
    return found

  return jax.jit(measure)(params)


def _normalized(params: Mapping[str, Any], y: jax.Array, emb: jax.Array):
  """What double normalisation makes of an EDM2 block's features and scale."""
  weight = params["emb"]["weight"]
  scale = params["gain"] * (emb @ weight) / len(weight) ** 0.5 + 1
  y, scale = magnitude.pixel_norm(y), magnitude.pixel_norm(scale)
  return y.astype(jnp.float32) * scale[:, None, None, :]
