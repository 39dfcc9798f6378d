"""DDPM++ (Score SDE, arXiv 2011.13456) and its TrigFlow form, for CIFAR-10.

The published form (`edm`) is the network that EDM trains on CIFAR-10 (arXiv
2206.00364, Table 7): positional embedding of `c_noise`, added inside each
block, group normalisation, and every sum scaled by the root of one half. The
`trigflow` form embeds `t` itself and modulates by adaptive double normalisation
(arXiv 2410.11081, Sections 4.1 and G.1), where DDPM++ had only a shift.

Weights are free, unlike EDM2's. Arrays are
`[B, H, W, C]`. The time path and all statistics are float32; the rest is
computed in `dtype`, and the output is float32.
"""

import dataclasses
import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from scm_jax.networks import layers, magnitude
from scm_jax.networks.attention import attend
from scm_jax.networks.config import Dtype, LevelsConfig
from scm_jax.networks.family import Family, Forms

# Ends of residual branches, and the output, start at almost nothing.
INIT_ZERO = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")
INIT_ATTENTION = nn.initializers.variance_scaling(0.2, "fan_avg", "uniform")


@dataclasses.dataclass(frozen=True)
class DDPMppConfig(LevelsConfig):
  """What a DDPM++ is made of; the defaults are EDM's for CIFAR-10.

  Attributes:
    form: `trigflow`, sCM's; or `edm`, the published one.
    augment: whether EDM's augmentation is an input.
  """

  form: Literal["trigflow", "edm"] = "trigflow"
  augment: bool = False

  channels: int = 128
  channel_mult: tuple[int, ...] = (2, 2, 2)
  channel_mult_emb: int = 4
  num_blocks: int = 4
  attn_resolutions: tuple[int, ...] = (16,)
  channels_per_head: int = 256


def group_norm(features: int, dtype: Dtype, name: str) -> nn.GroupNorm:
  """Builds a normalisation by 32 groups, of at least four channels each."""
  groups = math.gcd(features, max(1, min(32, features // 4)))
  return nn.GroupNorm(
    groups, epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name
  )


def _conv(features, side, dtype, name, init=layers.XAVIER) -> nn.Conv:
  """Builds a convolution with a square kernel."""
  return nn.Conv(
    features, (side, side), dtype=dtype, kernel_init=init, name=name
  )


class Embedding(nn.Module):
  """Time, label, guidance and augmentation to one vector, float32."""

  config: DDPMppConfig

  @nn.compact
  def __call__(self, t: Array, cond: dict[str, Array]) -> Array:
    c = self.config
    dense = lambda width, name, init=layers.XAVIER: nn.Dense(
      width, dtype=t.dtype, kernel_init=init, name=name
    )
    # Published: sines before cosines, of unit amplitude.
    features = layers.positional_features(t, c.channels) / 2**0.5
    emb = jnp.roll(features, c.channels // 2, axis=-1)
    for name in c.added_inputs:
      features = layers.positional_features(cond[name], c.channels)
      # Starts at zero: the student begins as its teacher, whatever the input.
      zeros = nn.initializers.zeros
      emb += dense(c.channels, f"emb_{name}", zeros)(features.astype(t.dtype))
    if c.augment:
      # Zero at first, where EDM draws it: to a new network it is all one what
      # was done to its data.
      told = nn.Dense(
        c.channels,
        use_bias=False,
        dtype=t.dtype,
        kernel_init=nn.initializers.zeros,
        name="emb_augment",
      )
      emb += told(cond["augment"].astype(t.dtype))
    if c.num_classes:
      label = layers.one_hot_label(cond["label"], c.num_classes)
      emb += dense(c.channels, "emb_label")(label.astype(t.dtype))
    for name in ("emb_0", "emb_1"):
      emb = nn.silu(dense(c.embedding_channels, name)(emb))
    return emb


class Attention(nn.Module):
  """Self-attention over pixels, with its residual sum."""

  config: DDPMppConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    batch, height, width, features = x.shape
    heads = max(1, features // c.channels_per_head)
    y = group_norm(features, c.dtype, "norm")(x)
    qkv = _conv(3 * features, 1, c.dtype, "qkv", INIT_ATTENTION)(y)
    qkv = qkv.reshape(batch, height * width, heads, features // heads, 3)
    q, k, v = (qkv[..., i] for i in range(3))
    y = attend(q, k, v, c.attention).reshape(x.shape)
    y = _conv(features, 1, c.dtype, "proj", INIT_ZERO)(y)
    return (x + y) * 2**-0.5


class Block(nn.Module):
  """One residual block of the encoder or the decoder.

  Attributes:
    config: of the network.
    features: output channels.
    mode: `keep`, `down` or `up`.
    attention: whether the block attends at its end.
  """

  config: DDPMppConfig
  features: int
  mode: str = "keep"
  attention: bool = False

  @nn.compact
  def __call__(self, x: Array, emb: Array, train: bool) -> Array:
    c = self.config
    x = x.astype(c.dtype)
    y = nn.silu(group_norm(x.shape[-1], c.dtype, "norm0")(x))
    y = layers.resample(y, self.mode)
    y = _conv(self.features, 3, c.dtype, "conv0")(y)
    y = nn.silu(self._modulated(y, emb))
    if c.dropout and y.shape[1] <= c.dropout_resolution:
      y = nn.Dropout(c.dropout, deterministic=not train)(y)
    y = _conv(self.features, 3, c.dtype, "conv1", INIT_ZERO)(y)
    if self.mode != "keep" or x.shape[-1] != self.features:
      x = layers.resample(x, self.mode)
      x = _conv(self.features, 1, c.dtype, "skip")(x)
    x = (x + y) * 2**-0.5
    return Attention(c, name="attention")(x) if self.attention else x

  def _modulated(self, y: Array, emb: Array) -> Array:
    """Normalises the features and lets the embedding act on them."""
    c = self.config
    per_pixel = lambda v: v[:, None, None, :].astype(y.dtype)
    norm = group_norm(self.features, c.dtype, "norm1")
    width = self.features * (1 if c.published else 2)
    emb = nn.Dense(
      width, dtype=emb.dtype, kernel_init=layers.XAVIER, name="emb"
    )(emb)
    if c.published:
      return norm(y + per_pixel(emb))
    # y = norm(x) * pnorm(s(t)) + pnorm(b(t)) (Section 4.1).
    scale, shift = map(magnitude.pixel_norm, jnp.split(emb, 2, axis=-1))
    return norm(y) * per_pixel(scale) + per_pixel(shift)


class DDPMpp(nn.Module):
  """`F(x, t, cond)`: `[B, H, W, C]` and `[B]` to `[B, H, W, C]` float32.

  In the `trigflow` form `t` is TrigFlow's time in radians; in the `edm` form it
  is EDM's `c_noise = ln(sigma) / 4`.
  """

  config: DDPMppConfig

  @nn.compact
  def __call__(
    self, x: Array, t: Array, cond: dict[str, Array], train: bool = False
  ) -> Array:
    c = self.config
    wide = jnp.promote_types(x.dtype, jnp.float32)
    emb = Embedding(c, name="embedding")(t.astype(wide), cond)
    Residual = layers.rematerialized(Block, c)

    dtypes = c.dtypes()

    def block(name, x, features, **kwargs):
      config = dataclasses.replace(c, dtype=dtypes[name])
      return Residual(config, features, name=name, **kwargs)(x, emb, train)

    x = layers.to_patches(x, c.patch)
    x = _conv(c.channels, 3, c.dtype, "conv_in")(x)
    join = lambda x, skip: jnp.concatenate([x, skip], axis=-1)
    # Unlike the encoder, the decoder attends once per level, at its end.
    x = layers.through_levels(c, x, block, join, attend_last=True)
    dtype = c.output_dtype
    x = nn.silu(group_norm(x.shape[-1], dtype, "norm_out")(x))
    features = c.in_channels * c.patch**2
    x = _conv(features, 3, dtype, "conv_out", INIT_ZERO)(x)
    return layers.from_patches(x.astype(wide), c.patch)


FAMILY = Family(
  DDPMppConfig,
  DDPMpp,
  forms=Forms(
    time_layers=frozenset({"emb_0"}),
    modulation=frozenset({"emb"}),
    sign=("denoiser", "conv_out"),
  ),
)
