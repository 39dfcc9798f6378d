"""Networks as pure functions of their parameters.

Objectives and samplers see only `Network.F` and `Network.w`; Flax stays in
this room.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scm_jax import trigflow
from scm_jax.errors import ConfigError
from scm_jax.networks import ddpmpp, dit, dropout, unet
from scm_jax.networks.config import (
  ADDED_LAYERS,
  AUGMENTATIONS,
  NetworkConfig,
)
from scm_jax.networks.ddpmpp import DDPMpp, DDPMppConfig
from scm_jax.networks.dit import DiT, DiTConfig
from scm_jax.networks.family import FREE, Constraint, Family, Forms
from scm_jax.networks.unet import UNet, UNetConfig
from scm_jax.networks.weighting import Weighting

Params = Mapping[str, Any]
Cond = dict[str, jax.Array]


# To add a family, write its module with a config, a Linen module and a
# `FAMILY`, and name that here; `config.network.family` then takes its name.
FAMILIES: dict[str, Family] = {
  "unet": unet.FAMILY,
  "ddpmpp": ddpmpp.FAMILY,
  "dit": dit.FAMILY,
}


class Network(NamedTuple):
  """A denoising network and its weighting head, as functions.

  Attributes:
    init: `init(key) -> params`, a dict of `denoiser` and `weighting`.
    F: `F(params, x, t, cond, *, rngs=None, train=False)`, `[B, H, W, C]` and
      `[B]` radians to `[B, H, W, C]` float32; `cond` holds `label` and, where
      the network takes them, `guidance`, `target` (radians `[B]`) and
      `augment`; `rngs`, if it trains with dropout, a key for each sample as
      `dropout` (`[B]`, or one to be split).
    w: `w(params, t)`, the adaptive log-weight `[B]`; `w(params, t, s)` of a
      network that takes `target`.
    config: what it was built from.
    constraint: where the optimiser keeps its weights.
    fold: `fold(params, platform, batch)`, parameters that `F` takes in place of
      `params` and computes nothing from, for sampling alone; `platform` is that
      of the devices, which draw `batch` images each at once. None if `F`
      computes nothing from parameters anyway.
  """

  init: Callable[[jax.Array], Params]
  F: Callable[..., jax.Array]
  w: Callable[..., jax.Array]
  config: NetworkConfig
  constraint: Constraint = FREE
  fold: Callable[[Params, str, int], Params] | None = None

  @property
  def shapes(self) -> Params:
    """The shapes and types of its parameters."""
    return jax.eval_shape(self.init, jax.random.key(0))


@functools.cache
def build(config: NetworkConfig) -> Network:
  """Builds the functions of the network that `config` describes.

  `F` and `w` take TrigFlow's time and `F` is TrigFlow's in every form: the
  published ones, which are trained at another time and for another output, are
  converted here (see `Forms.convert`).

  Equal configs give the same functions, which therefore compile once.
  """
  family = FAMILIES[family_name(config)]
  denoiser, weighting = family.module(config), Weighting(config.weighting_head)

  def init(key):
    net_key, weighting_key = jax.random.split(key)
    size, channels = config.resolution, config.in_channels
    x, t = jnp.zeros((1, size, size, channels)), jnp.zeros((1,))
    cond = null_cond(config, 1)
    return {
      "denoiser": denoiser.init(net_key, x, t, cond)["params"],
      "weighting": weighting.init(
        weighting_key, t, t if config.target else None
      )["params"],
    }

  # JAX's own default would make bfloat16 or TensorFloat-32 of float32 products
  # on accelerators, in the time path of a bfloat16 network too.
  precise = functools.partial(jax.default_matmul_precision, config.precision)

  def F(params, x, t, cond, *, rngs=None, train=False):
    variables = {"params": params["denoiser"]}
    keys = (rngs or {}).get("dropout")
    with precise(), dropout.per_sample(keys, x.shape[0]):
      output = denoiser.apply(variables, x, t, cond, train)
    _check_output(output, x, config)
    return output

  def w(params, t, s=None):
    if config.published or config.weighting_head == "fourier":
      # Off the ends, where `ln(tan t)` is infinite. No time that training draws
      # lies so near an end.
      t = jnp.clip(t, 1e-6, jnp.pi / 2 - 1e-6)
      t = jnp.log(trigflow.time_to_sigma(t, config.sigma_d)) / 4
    with precise():
      return weighting.apply({"params": params["weighting"]}, t, s)

  if config.published:
    F = family.forms.convert(F, config.sigma_d)

  def fold(params, platform, batch):
    assert family.fold is not None
    denoiser = family.fold(config, params["denoiser"], platform, batch)
    return {**params, "denoiser": denoiser}

  network = Network(init, F, w, config, family.constraint)
  return network._replace(fold=fold) if family.fold else network


def _check_output(
  output: jax.Array, x: jax.Array, config: NetworkConfig
) -> None:
  """Raises ConfigError for an output that would be broadcast or rounded."""
  wide = output.dtype in (jnp.float32, jnp.float64)
  if output.shape != x.shape or not wide:
    raise ConfigError(
      f"the network {family_name(config)!r} gives {output.dtype} "
      f"{list(output.shape)} for an input {list(x.shape)}; its output must "
      "have the shape of its input, and be float32"
    )


def family_name(config: NetworkConfig) -> str:
  """Returns the name in `FAMILIES` of the family that a config is of."""
  return next(n for n, f in FAMILIES.items() if type(config) is f.config)


def null_cond(config: NetworkConfig, batch: int) -> Cond:
  """Returns "no label", guidance 1, target 0, not augmented, `[batch]`."""
  cond = {}
  if config.num_classes:
    cond["label"] = jnp.full((batch,), config.num_classes, jnp.int32)
  if config.guidance:
    cond["guidance"] = jnp.ones((batch,), jnp.float32)
  if config.target:
    cond["target"] = jnp.zeros((batch,), jnp.float32)
  if config.augment:
    cond["augment"] = jnp.zeros((batch, AUGMENTATIONS), jnp.float32)
  return cond


def parameter_count(params: Params) -> int:
  """Counts the denoiser's parameters, without those of the weighting head."""
  leaves = jax.tree.leaves(params["denoiser"])
  return sum(leaf.size for leaf in leaves)


__all__ = [
  "ADDED_LAYERS",
  "AUGMENTATIONS",
  "FAMILIES",
  "FREE",
  "Cond",
  "Constraint",
  "DDPMpp",
  "DDPMppConfig",
  "DiT",
  "DiTConfig",
  "Family",
  "Forms",
  "Network",
  "NetworkConfig",
  "Params",
  "UNet",
  "UNetConfig",
  "build",
  "family_name",
  "null_cond",
  "parameter_count",
]
