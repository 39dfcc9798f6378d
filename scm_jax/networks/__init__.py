"""Networks as pure functions of their parameters.

Objectives and samplers see only `Network.F` and `Network.w`; Flax stays in
this room.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from scm_jax import trigflow
from scm_jax.networks import dropout
from scm_jax.networks.config import AUGMENTATIONS, NetworkConfig
from scm_jax.networks.ddpmpp import DDPMpp, DDPMppConfig
from scm_jax.networks.unet import UNet, UNetConfig
from scm_jax.networks.weighting import Weighting

Params = Mapping[str, Any]
Cond = dict[str, jax.Array]


class Family(NamedTuple):
  """A kind of network.

  Attributes:
    config: the class of its configs.
    module: the class of its Linen modules.
    published: name of its published form, beside `trigflow`.
  """

  config: type[NetworkConfig]
  module: Callable[..., nn.Module]
  published: str


FAMILIES = {
  "unet": Family(UNetConfig, UNet, "edm2"),
  "ddpmpp": Family(DDPMppConfig, DDPMpp, "edm"),
}


class Network(NamedTuple):
  """A denoising network and its weighting head, as functions.

  Attributes:
    init: `init(key) -> params`, a dict of `denoiser` and `weighting`.
    F: `F(params, x, t, cond, *, rngs=None, train=False)`, `[B, H, W, C]` and
      `[B]` radians to `[B, H, W, C]` float32; `cond` holds `label` and, where
      the network takes them, `guidance` and `augment`; `rngs`, if it trains
      with dropout, a key for each sample as `dropout` (`[B]`, or one to be
      split).
    w: `w(params, t)`, the adaptive log-weight `[B]`.
    config: what it was built from.
  """

  init: Callable[[jax.Array], Params]
  F: Callable[..., jax.Array]
  w: Callable[[Params, jax.Array], jax.Array]
  config: NetworkConfig


@functools.cache
def build(config: NetworkConfig) -> Network:
  """The functions of the network that `config` describes.

  `F` and `w` take TrigFlow's time and `F` is TrigFlow's in every form: the
  published ones, which are trained at EDM's `c_noise` and with EDM's sign, are
  converted here (see `trigflow.network_from_edm`).

  Equal configs give the same functions, which therefore compile once.
  """
  family = next(f for f in FAMILIES.values() if type(config) is f.config)
  if config.form not in ("trigflow", family.published):
    raise ValueError(f"{config.form!r} is no form of {type(config).__name__}")
  denoiser, weighting = family.module(config), Weighting(config.weighting_head)

  def init(key):
    net_key, weighting_key = jax.random.split(key)
    size, channels = config.resolution, config.in_channels
    x, t = jnp.zeros((1, size, size, channels)), jnp.zeros((1,))
    cond = null_cond(config, 1)
    return {
      "denoiser": denoiser.init(net_key, x, t, cond)["params"],
      "weighting": weighting.init(weighting_key, t)["params"],
    }

  # JAX's own default would make bfloat16 or TensorFloat-32 of float32 products
  # on accelerators, in the time path of a bfloat16 network too.
  precise = functools.partial(jax.default_matmul_precision, config.precision)

  def F(params, x, t, cond, *, rngs=None, train=False):
    variables = {"params": params["denoiser"]}
    keys = (rngs or {}).get("dropout")
    with precise(), dropout.per_sample(keys, x.shape[0]):
      return denoiser.apply(variables, x, t, cond, train)

  def w(params, t):
    if config.published or config.weighting_head == "fourier":
      t = jnp.log(trigflow.time_to_sigma(_inside(t), config.sigma_d)) / 4
    with precise():
      return weighting.apply({"params": params["weighting"]}, t)

  if config.published:
    F = trigflow.network_from_edm(F, config.sigma_d)
  return Network(init, F, w, config)


def _inside(t: jax.Array) -> jax.Array:
  """Times kept off the ends, where `ln(tan t)` is infinite.

  Of training's proposals none lies so near an end.
  """
  return jnp.clip(t, 1e-6, jnp.pi / 2 - 1e-6)


def null_cond(config: NetworkConfig, batch: int) -> Cond:
  """The condition "no label", guidance 1, not augmented, of `batch` samples."""
  cond = {}
  if config.num_classes:
    cond["label"] = jnp.full((batch,), config.num_classes, jnp.int32)
  if config.guidance:
    cond["guidance"] = jnp.ones((batch,), jnp.float32)
  if config.augment:
    cond["augment"] = jnp.zeros((batch, AUGMENTATIONS), jnp.float32)
  return cond


def parameter_count(params: Params) -> int:
  """Trained parameters of the denoiser; the weighting head is thrown away."""
  leaves = jax.tree.leaves(params["denoiser"])
  return sum(leaf.size for leaf in leaves)


__all__ = [
  "AUGMENTATIONS",
  "FAMILIES",
  "Cond",
  "DDPMpp",
  "DDPMppConfig",
  "Family",
  "Network",
  "NetworkConfig",
  "Params",
  "UNet",
  "UNetConfig",
  "build",
  "null_cond",
  "parameter_count",
]
