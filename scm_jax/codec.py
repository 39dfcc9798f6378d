"""Between what a dataset stores and the network's data, in compiled code.

Datasets store uint8 images, or an autoencoder's latents; the network sees data
of mean 0 and standard deviation `sigma_d`. A codec is a frozen, hashable value
with two pure functions: `encode(stored, key)`, part of the train step, and
`decode(x0, params)`, part of the compiled sampler.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from scm_jax.networks.autoencoder import Autoencoder


@dataclasses.dataclass(frozen=True)
class PixelCodec:
  """Maps uint8 NHWC images to `x0` and back.

  Attributes:
    mean: mean of the images scaled to [-1, 1]; a number for all channels, or
      one for each.
    std: standard deviation of the images, in the same form;
      `x0 = (image - mean) / std * sigma_d`.
    sigma_d: standard deviation of `x0`.
  """

  mean: float | tuple[float, ...]
  std: float | tuple[float, ...]
  sigma_d: float

  def encode(self, stored: Array, key: Array | None = None) -> Array:
    """Turns uint8 images `[B, H, W, C]` into float32 `x0` of the same shape.

    The key is not used: an image has one encoding.
    """
    del key
    return _standardize(self, stored.astype(jnp.float32) / 127.5 - 1.0)

  def decode(self, x0: Array, params: Any = None) -> Array:
    """Turns `x0` into uint8 images, rounded and clipped to [0, 255]."""
    del params
    levels = jnp.round((restore(self, x0) + 1.0) * 127.5)
    return jnp.clip(levels, 0, 255).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class LatentCodec:
  """Maps an autoencoder's latents to `x0`, and `x0` to images.

  The encoder gives each latent a normal distribution. Datasets store its mean
  and standard deviation, and every use draws afresh, as in EDM2.

  Attributes:
    mean: mean of the latents, one number for each channel (Section G.1).
    std: standard deviation of the latents, one number for each channel;
      `x0 = (latent - mean) / std * sigma_d`.
    sigma_d: standard deviation of `x0`.
    image_range: values of black and white in the images that the autoencoder
      was trained on.
    autoencoder: the autoencoder that `decode` is given parameters for; None
      draws small pictures, by `preview` or `false_colours`.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  sigma_d: float
  image_range: tuple[float, float] = (-1.0, 1.0)
  autoencoder: Autoencoder | None = None

  def encode(self, stored: Array, key: Array) -> Array:
    """Draws float32 `x0` `[B, h, w, C]` from what is stored of latents.

    Args:
      stored: means in the first `C` channels and standard deviations in the
        others, any float, `[B, h, w, 2 C]`.
      key: the random key of the draw.
    """
    mean, std = jnp.split(stored.astype(jnp.float32), 2, axis=-1)
    return _standardize(self, mean + std * jax.random.normal(key, mean.shape))

  def decode(self, x0: Array, params: Any = None) -> Array:
    """Turns `x0` into uint8 images `[B, H, W, 3]`.

    Levels are truncated, not rounded, as EDM2's are. The images are half a
    level darker for it, which published distances include.

    Args:
      x0: the network's data, `[B, h, w, C]`.
      params: the autoencoder's parameters.
    """
    latents, (low, high) = restore(self, x0), self.image_range
    if self.autoencoder:
      images = self.autoencoder.decode(params, latents)
    elif x0.shape[-1] == len(PREVIEW):
      images = preview(latents)
    else:
      colours = false_colours(x0.astype(jnp.float32) / self.sigma_d)
      images = low + (colours + 1) / 2 * (high - low)
    levels = (images - low) / (high - low) * 255.0
    return jnp.clip(levels, 0, 255).astype(jnp.uint8)


Codec = PixelCodec | LatentCodec

# A linear map from Stable Diffusion's latents, times its scaling factor, to
# red, green and blue. It is an approximate least-squares fit that others made
# (discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204, for
# version 1.4; later autoencoders share its encoder).
SCALING_FACTOR = 0.18215
PREVIEW = (
  (0.298, 0.207, 0.208),
  (0.187, 0.286, 0.173),
  (-0.158, 0.189, 0.264),
  (-0.184, -0.271, -0.473),
)


def preview(latents: Array) -> Array:
  """Returns small pictures of latents, without their autoencoder.

  Args:
    latents: latents of Stable Diffusion's autoencoder, as its encoder gives
      them, `[B, h, w, 4]`.

  Returns:
    Colours `[B, h, w, 3]` in about the range of the encoded images, one pixel
    for each latent.
  """
  return latents @ (SCALING_FACTOR * jnp.asarray(PREVIEW, latents.dtype))


def false_colours(x: Array) -> Array:
  """Returns small pictures of latents whose colours are not known.

  They show three deviations of the first three channels, or of the first alone.

  Args:
    x: latents of mean 0 and deviation 1, `[B, h, w, C]`.

  Returns:
    Colours `[B, h, w, 3]`, nearly all in [-1, 1].
  """
  shown = x[..., :3] if x.shape[-1] > 2 else x[..., :1]
  return jnp.broadcast_to(shown / 3, (*x.shape[:-1], 3))


def _standardize(codec: Codec, data: Array) -> Array:
  """Returns stored data with mean 0 and standard deviation `sigma_d`."""
  mean, std = (jnp.asarray(v, jnp.float32) for v in (codec.mean, codec.std))
  return (data - mean) / std * codec.sigma_d


def restore(codec: Codec, x0: Array) -> Array:
  """Returns `x0` with the mean and standard deviation of stored data."""
  mean, std = (jnp.asarray(v, jnp.float32) for v in (codec.mean, codec.std))
  return x0.astype(jnp.float32) / codec.sigma_d * std + mean
