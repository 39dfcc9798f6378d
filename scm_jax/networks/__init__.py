"""Networks as pure functions of their parameters.

Objectives and samplers see only `Network.F` and `Network.w`; Flax stays in
this room.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scm_jax.networks.unet import UNet, UNetConfig
from scm_jax.networks.weighting import Weighting

Params = Mapping[str, Any]
Cond = dict[str, jax.Array]


class Network(NamedTuple):
  """A denoising network and its weighting head, as functions.

  Attributes:
    init: `init(key) -> params`, a dict of `denoiser` and `weighting`.
    F: `F(params, x, t, cond, *, rngs=None, train=False)`, `[B, H, W, C]` and
      `[B]` radians to `[B, H, W, C]` float32; `cond` holds `label` and, where
      the network takes it, `guidance`.
    w: `w(params, t)`, the adaptive log-weight `[B]`.
    config: what it was built from.
  """

  init: Callable[[jax.Array], Params]
  F: Callable[..., jax.Array]
  w: Callable[[Params, jax.Array], jax.Array]
  config: UNetConfig


@functools.cache
def build(config: UNetConfig) -> Network:
  """The functions of the U-Net that `config` describes.

  Equal configs give the same functions, which therefore compile once.
  """
  denoiser, weighting = UNet(config), Weighting(config.form)

  def init(key):
    net_key, weighting_key = jax.random.split(key)
    size, channels = config.resolution, config.in_channels
    x, t = jnp.zeros((1, size, size, channels)), jnp.zeros((1,))
    cond = null_cond(config, 1)
    return {
      "denoiser": denoiser.init(net_key, x, t, cond)["params"],
      "weighting": weighting.init(weighting_key, t)["params"],
    }

  def F(params, x, t, cond, *, rngs=None, train=False):
    variables = {"params": params["denoiser"]}
    return denoiser.apply(variables, x, t, cond, train, rngs=rngs)

  def w(params, t):
    return weighting.apply({"params": params["weighting"]}, t)

  return Network(init, F, w, config)


def null_cond(config: UNetConfig, batch: int) -> Cond:
  """The condition "no label", guidance 1, for `batch` samples."""
  cond = {}
  if config.num_classes:
    cond["label"] = jnp.full((batch,), config.num_classes, jnp.int32)
  if config.guidance:
    cond["guidance"] = jnp.ones((batch,), jnp.float32)
  return cond


def parameter_count(params: Params) -> int:
  """Trained parameters of the denoiser; the weighting head is thrown away."""
  leaves = jax.tree.leaves(params["denoiser"])
  return sum(leaf.size for leaf in leaves)


__all__ = [
  "Cond",
  "Network",
  "Params",
  "UNet",
  "UNetConfig",
  "build",
  "null_cond",
  "parameter_count",
]
