"""Stable Diffusion's autoencoder: images to latents and back.

A convolutional variational autoencoder (Rombach et al. 2022, arXiv 2112.10752)
as its public weights have it: residual blocks of group normalisation, SiLU and
3x3 convolutions, one attention layer at the lowest resolution, a latent for
every 8x8 pixels. Submodules bear the names of diffusers' `AutoencoderKL`, with
underscores for its dots before numbers (see `interop/autoencoder.py`).

All of it computes in float32, products included: JAX's default would make
bfloat16 of them on TPUs and TensorFloat-32 on GPUs.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

EPS = 1e-6  # of the group normalisations
LOG_VARIANCE = (-30.0, 20.0)  # bounds of what the encoder says
# Pixels that are decoded at once. Each takes 3.5 kB: at full resolution there
# are 256 channels, of which a residual block keeps a few copies.
PIXELS = 4 * 512 * 512


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
  """Sizes; the defaults are those of the public weights.

  Attributes:
    channels: at each resolution, from the images' down; each halves the side.
    blocks: residual blocks at each resolution; the decoder has one more.
    latent_channels: of the latents.
    image_channels: of the images.
    groups: of the normalisations; divides all of `channels`.
  """

  channels: tuple[int, ...] = (128, 256, 512, 512)
  blocks: int = 2
  latent_channels: int = 4
  image_channels: int = 3
  groups: int = 32

  @property
  def factor(self) -> int:
    """Side of the images in sides of the latents, 8."""
    return 1 << (len(self.channels) - 1)


class Autoencoder(NamedTuple):
  """An autoencoder as pure functions of its parameters.

  Attributes:
    init: `init(key) -> params`.
    encode: `encode(params, images) -> (mean, std)`: float images
      `[B, H, W, 3]`, sides divisible by `config.factor`, in the range of the
      encoded images, to float32 `[B, h, w, 4]` each: every latent's normal
      distribution.
    decode: `decode(params, latents) -> images`, float32 and not clipped; for
      any batch, a few images at a time.
    config: what it was built from.
  """

  init: Callable[[Array], Mapping[str, Any]]
  encode: Callable[[Any, Array], tuple[Array, Array]]
  decode: Callable[[Any, Array], Array]
  config: AutoencoderConfig


@functools.cache
def build(config: AutoencoderConfig) -> Autoencoder:
  """The functions of an autoencoder; equal configs give the same ones."""
  network = AutoencoderKL(config)

  def init(key):
    size, channels = config.factor, config.image_channels
    return network.init(key, jnp.zeros((1, size, size, channels)))["params"]

  exactly = functools.partial(jax.default_matmul_precision, "highest")

  def encode(params, images):
    variables = {"params": params}
    with exactly():
      mean, log_variance = network.apply(variables, images, method="moments")
    return mean, jnp.exp(jnp.clip(log_variance, *LOG_VARIANCE) / 2)

  def decode(params, latents):
    _, height, width, _ = latents.shape
    run = lambda z: network.apply({"params": params}, z, method="decode")
    size = PIXELS // (height * width * config.factor**2)
    with exactly():
      return in_groups(run, latents, size)

  return Autoencoder(init, encode, decode, config)


def in_groups(f: Callable[[Array], Array], x: Array, size: int) -> Array:
  """`f(x)` of a batch `[B, ...]`, by at most `size` of its elements at once.

  A batch of symbolic size goes one by one.
  """
  batch, size = x.shape[0], max(size, 1)
  if not isinstance(batch, int):
    return lax.map(lambda one: f(one[None])[0], x)
  if batch <= size:
    return f(x)
  number = -(-batch // size)
  size = -(-batch // number)  # groups of even size, the last filled up
  padding = [(0, number * size - batch)] + [(0, 0)] * (x.ndim - 1)
  groups = jnp.pad(x, padding).reshape(number, size, *x.shape[1:])
  y = lax.map(f, groups)
  return y.reshape(number * size, *y.shape[2:])[:batch]


class AutoencoderKL(nn.Module):
  """Encoder and decoder, each with its 1x1 convolution on the latents' side."""

  config: AutoencoderConfig

  def setup(self):
    latent = self.config.latent_channels
    self.encoder = Encoder(self.config)
    self.decoder = Decoder(self.config)
    self.quant_conv = nn.Conv(2 * latent, (1, 1))
    self.post_quant_conv = nn.Conv(latent, (1, 1))

  def moments(self, images: Array) -> tuple[Array, Array]:
    """Mean and log-variance, as they come out."""
    moments = self.quant_conv(self.encoder(images))
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return mean, log_variance

  def decode(self, latents: Array) -> Array:
    return self.decoder(self.post_quant_conv(latents))

  def __call__(self, images: Array) -> Array:
    """The image of the mean; here so that `init` meets every parameter."""
    return self.decode(self.moments(images)[0])


class Encoder(nn.Module):
  """Images `[B, H, W, 3]` to `[B, h, w, 2 latent_channels]`."""

  config: AutoencoderConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    config, last = self.config, len(self.config.channels) - 1
    x = _conv3(config.channels[0], "conv_in")(x)
    for i, features in enumerate(config.channels):
      resampling = "down" if i < last else ""
      x = Level(
        *(features, config.blocks, config.groups, resampling),
        name=f"down_blocks_{i}",
      )(x)
    x = Middle(config.groups, name="mid_block")(x)
    x = nn.silu(_norm(config.groups, "conv_norm_out")(x))
    return _conv3(2 * config.latent_channels, "conv_out")(x)


class Decoder(nn.Module):
  """Latents `[B, h, w, latent_channels]` to images `[B, H, W, 3]`."""

  config: AutoencoderConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    config, last = self.config, len(self.config.channels) - 1
    x = _conv3(config.channels[-1], "conv_in")(x)
    x = Middle(config.groups, name="mid_block")(x)
    for i, features in enumerate(reversed(config.channels)):
      resampling = "up" if i < last else ""
      x = Level(
        *(features, config.blocks + 1, config.groups, resampling),
        name=f"up_blocks_{i}",
      )(x)
    x = nn.silu(_norm(config.groups, "conv_norm_out")(x))
    return _conv3(config.image_channels, "conv_out")(x)


class Level(nn.Module):
  """Residual blocks at one resolution, then a change of it: `down` or `up`."""

  features: int
  blocks: int
  groups: int
  resampling: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i in range(self.blocks):
      x = Block(self.features, self.groups, name=f"resnets_{i}")(x)
    if self.resampling == "down":
      x = Halve(self.features, name="downsamplers_0")(x)
    if self.resampling == "up":
      x = Double(self.features, name="upsamplers_0")(x)
    return x


class Halve(nn.Module):
  """A convolution of stride 2, padded on the far sides alone."""

  features: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    padding = ((0, 1), (0, 1))
    return nn.Conv(self.features, (3, 3), (2, 2), padding, name="conv")(x)


class Double(nn.Module):
  """Twice every row and column, then a convolution."""

  features: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = x.repeat(2, axis=1).repeat(2, axis=2)
    return _conv3(self.features, "conv")(x)


class Middle(nn.Module):
  """Block, attention, block, at the latents' resolution."""

  groups: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    features = x.shape[-1]
    x = Block(features, self.groups, name="resnets_0")(x)
    x = Attention(self.groups, name="attentions_0")(x)
    return Block(features, self.groups, name="resnets_1")(x)


class Block(nn.Module):
  """A residual block; a 1x1 convolution where the width changes."""

  features: int
  groups: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    y = nn.silu(_norm(self.groups, "norm1")(x))
    y = _conv3(self.features, "conv1")(y)
    y = nn.silu(_norm(self.groups, "norm2")(y))
    y = _conv3(self.features, "conv2")(y)
    if x.shape[-1] != self.features:
      x = nn.Conv(self.features, (1, 1), name="conv_shortcut")(x)
    return x + y


class Attention(nn.Module):
  """Self-attention over all positions, with one head, as a residual."""

  groups: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    batch, height, width, features = x.shape
    y = _norm(self.groups, "group_norm")(x)
    y = y.reshape(batch, height * width, features)
    q, k, v = (nn.Dense(features, name=f"to_{n}")(y) for n in "qkv")
    scores = jnp.einsum("bqc,bkc->bqk", q, k) * features**-0.5
    y = jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(scores), v)
    return x + nn.Dense(features, name="to_out_0")(y).reshape(x.shape)


def _conv3(features: int, name: str) -> nn.Conv:
  return nn.Conv(features, (3, 3), padding=1, name=name)


def _norm(groups: int, name: str) -> nn.GroupNorm:
  # The fast variance, a difference of two means, loses digits in float32.
  return nn.GroupNorm(groups, epsilon=EPS, use_fast_variance=False, name=name)
