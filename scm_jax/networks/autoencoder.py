"""Stable Diffusion's autoencoder: images to latents and back.

It is the convolutional variational autoencoder of the public weights (Rombach
et al. 2022, arXiv 2112.10752), with residual blocks of group normalisation,
SiLU and 3x3 convolutions, one attention layer at the lowest resolution, and one
latent for every 8x8 pixels. VA-VAE, LightningDiT's (arXiv 2501.01423), differs
in its sizes, with a latent for 16x16 pixels, and attends after each block of
the lowest resolution. Submodules have the names of those in diffusers'
`AutoencoderKL`, with underscores for the dots before numbers (see
`interop/autoencoder.py`).

It computes in float32 and also multiplies in float32: JAX's default would
multiply in bfloat16 on TPUs and in TensorFloat-32 on GPUs.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

EPS = 1e-6  # epsilon of the group normalisations
LOG_VARIANCE = (-30.0, 20.0)  # bounds of the encoder's log-variances
# The number of pixels that are decoded at once. Each takes 3.5 kB: at full
# resolution there are 256 channels, and a residual block keeps a few copies.
PIXELS = 4 * 512 * 512


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
  """The sizes of an autoencoder, by default those of the public weights.

  Attributes:
    channels: channels at each resolution, from that of the images down; the
      sides halve from one to the next.
    blocks: residual blocks at each resolution; the decoder has one more.
    latent_channels: channels of the latents.
    image_channels: channels of the images.
    groups: groups of the normalisations; a divisor of all of `channels`.
    attends: whether each block of the lowest resolution is followed by an
      attention layer, besides the one in the middle.
  """

  channels: tuple[int, ...] = (128, 256, 512, 512)
  blocks: int = 2
  latent_channels: int = 4
  image_channels: int = 3
  groups: int = 32
  attends: bool = False

  @property
  def factor(self) -> int:
    """Returns the ratio of image side to latent side, by default 8."""
    return 1 << (len(self.channels) - 1)


class Autoencoder(NamedTuple):
  """An autoencoder as pure functions of its parameters.

  Attributes:
    init: the function `init(key) -> params`.
    encode: the function `encode(params, images) -> (mean, std)`, which maps
      float images `[B, H, W, 3]` with sides divisible by `config.factor` to the
      mean and standard deviation of every latent, both float32 `[B, h, w, 4]`.
    decode: the function `decode(params, latents) -> images`, whose images are
      float32 and not clipped. It decodes a few images at a time, whatever the
      size of the batch.
    config: the sizes.
  """

  init: Callable[[Array], Mapping[str, Any]]
  encode: Callable[[Any, Array], tuple[Array, Array]]
  decode: Callable[[Any, Array], Array]
  config: AutoencoderConfig

  @property
  def shapes(self) -> Mapping[str, Any]:
    """The shapes and types of its parameters."""
    return jax.eval_shape(self.init, jax.random.key(0))


@functools.cache
def build(config: AutoencoderConfig) -> Autoencoder:
  """Returns an autoencoder; equal configs give the same functions."""
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
  """Returns `f(x)` of a batch `[B, ...]`, computed group by group.

  A group has at most `size` elements, and one if the size of the batch is
  symbolic.
  """
  batch, size = x.shape[0], max(size, 1)
  if not isinstance(batch, int):
    return lax.map(lambda one: f(one[None])[0], x)
  if batch <= size:
    return f(x)
  number = -(-batch // size)
  size = -(-batch // number)  # groups of equal size, the last one padded
  padding = [(0, number * size - batch)] + [(0, 0)] * (x.ndim - 1)
  groups = jnp.pad(x, padding).reshape(number, size, *x.shape[1:])
  y = lax.map(f, groups)
  return y.reshape(number * size, *y.shape[2:])[:batch]


class AutoencoderKL(nn.Module):
  """Encoder and decoder, each with a 1x1 convolution next to the latents."""

  config: AutoencoderConfig

  def setup(self):
    latent = self.config.latent_channels
    self.encoder = Encoder(self.config)
    self.decoder = Decoder(self.config)
    self.quant_conv = nn.Conv(2 * latent, (1, 1))
    self.post_quant_conv = nn.Conv(latent, (1, 1))

  def moments(self, images: Array) -> tuple[Array, Array]:
    """Returns the mean and the unclipped log-variance, `[B, h, w, 4]` each."""
    moments = self.quant_conv(self.encoder(images))
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return mean, log_variance

  def decode(self, latents: Array) -> Array:
    """Returns the images `[B, H, W, 3]` of latents `[B, h, w, 4]`."""
    return self.decoder(self.post_quant_conv(latents))

  def __call__(self, images: Array) -> Array:
    """Decodes the encoder's mean, so that `init` reaches every parameter."""
    return self.decode(self.moments(images)[0])


class Encoder(nn.Module):
  """Network from images `[B, H, W, 3]` to `[B, h, w, 2 latent_channels]`."""

  config: AutoencoderConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    config, last = self.config, len(self.config.channels) - 1
    x = _conv3(config.channels[0], "conv_in")(x)
    for i, features in enumerate(config.channels):
      resampling = "down" if i < last else ""
      x = Level(
        features,
        config.blocks,
        config.groups,
        resampling,
        config.attends and i == last,
        name=f"down_blocks_{i}",
      )(x)
    x = Middle(config.groups, name="mid_block")(x)
    x = nn.silu(_norm(config.groups, "conv_norm_out")(x))
    return _conv3(2 * config.latent_channels, "conv_out")(x)


class Decoder(nn.Module):
  """Network from `[B, h, w, latent_channels]` to images `[B, H, W, 3]`."""

  config: AutoencoderConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    config, last = self.config, len(self.config.channels) - 1
    x = _conv3(config.channels[-1], "conv_in")(x)
    x = Middle(config.groups, name="mid_block")(x)
    for i, features in enumerate(reversed(config.channels)):
      resampling = "up" if i < last else ""
      x = Level(
        features,
        config.blocks + 1,
        config.groups,
        resampling,
        config.attends and i == 0,
        name=f"up_blocks_{i}",
      )(x)
    x = nn.silu(_norm(config.groups, "conv_norm_out")(x))
    return _conv3(config.image_channels, "conv_out")(x)


class Level(nn.Module):
  """Residual blocks at one resolution, then resampling: `down`, `up` or ""."""

  features: int
  blocks: int
  groups: int
  resampling: str
  attends: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i in range(self.blocks):
      x = Block(self.features, self.groups, name=f"resnets_{i}")(x)
      if self.attends:
        x = Attention(self.groups, name=f"attentions_{i}")(x)
    if self.resampling == "down":
      x = Halve(self.features, name="downsamplers_0")(x)
    if self.resampling == "up":
      x = Double(self.features, name="upsamplers_0")(x)
    return x


class Halve(nn.Module):
  """Convolution of stride 2, padded below and to the right only."""

  features: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    padding = ((0, 1), (0, 1))
    return nn.Conv(self.features, (3, 3), (2, 2), padding, name="conv")(x)


class Double(nn.Module):
  """Repetition of every row and column, then a convolution."""

  features: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = x.repeat(2, axis=1).repeat(2, axis=2)
    return _conv3(self.features, "conv")(x)


class Middle(nn.Module):
  """Block, attention and block at the resolution of the latents."""

  groups: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    features = x.shape[-1]
    x = Block(features, self.groups, name="resnets_0")(x)
    x = Attention(self.groups, name="attentions_0")(x)
    return Block(features, self.groups, name="resnets_1")(x)


class Block(nn.Module):
  """Residual block; a 1x1 convolution adapts the number of channels."""

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
