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
    mean: of the images scaled to [-1, 1]; a number for all channels, or one
      for each.
    std: likewise; `x0 = (image - mean) / std * sigma_d`.
    sigma_d: standard deviation of `x0`.
  """

  mean: float | tuple[float, ...]
  std: float | tuple[float, ...]
  sigma_d: float

  def encode(self, stored: Array, key: Array | None = None) -> Array:
    """uint8 `[B, H, W, C]` to float32 `x0` of the same shape.

    The key is not used: an image has one encoding.
    """
    del key
    return _standardize(self, stored.astype(jnp.float32) / 127.5 - 1.0)

  def decode(self, x0: Array, params: Any = None) -> Array:
    """`x0` to uint8 images, rounded and clipped to [0, 255]."""
    del params
    levels = jnp.round((_restore(self, x0) + 1.0) * 127.5)
    return jnp.clip(levels, 0, 255).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class LatentCodec:
  """Maps an autoencoder's latents to `x0`, and `x0` to images.

  The encoder gives each latent a normal distribution. Datasets store its mean
  and standard deviation, and every use draws afresh, as in EDM2.

  Attributes:
    mean: of the latents, one number for each channel (Section G.1).
    std: likewise; `x0 = (latent - mean) / std * sigma_d`.
    sigma_d: standard deviation of `x0`.
    image_range: of the images that the autoencoder saw: black and white.
    autoencoder: whose parameters `decode` is given; None draws the small
      preview of `preview`.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  sigma_d: float
  image_range: tuple[float, float] = (-1.0, 1.0)
  autoencoder: Autoencoder | None = None

  def encode(self, stored: Array, key: Array) -> Array:
    """Means and deviations, any float `[B, h, w, 2 C]`, to `x0` `[B, h, w, C]`.

    The first `C` channels are the means. `x0` is float32.
    """
    mean, std = jnp.split(stored.astype(jnp.float32), 2, axis=-1)
    return _standardize(self, mean + std * jax.random.normal(key, mean.shape))

  def decode(self, x0: Array, params: Any = None) -> Array:
    """`x0` to uint8 images `[B, H, W, 3]`; `params` are the autoencoder's.

    Levels are truncated, not rounded, as EDM2's are: half a level darker, which
    published distances have in them.
    """
    latents = _restore(self, x0)
    if self.autoencoder is None:
      images = preview(latents)
    else:
      images = self.autoencoder.decode(params, latents)
    low, high = self.image_range
    levels = (images - low) / (high - low) * 255.0
    return jnp.clip(levels, 0, 255).astype(jnp.uint8)


Codec = PixelCodec | LatentCodec

# Approximate, least-squares fits by hand of others: the linear map from Stable
# Diffusion's latents, times its scaling factor, to red, green and blue
# (discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204,
# for v1.4; later autoencoders share its encoder).
SCALING_FACTOR = 0.18215
PREVIEW = (
  (0.298, 0.207, 0.208),
  (0.187, 0.286, 0.173),
  (-0.158, 0.189, 0.264),
  (-0.184, -0.271, -0.473),
)


def preview(latents: Array) -> Array:
  """A rough look at latents without their autoencoder.

  Args:
    latents: of Stable Diffusion's autoencoder, as its encoder gives them,
      `[B, h, w, 4]`.

  Returns:
    Colours `[B, h, w, 3]` in about the range of the encoded images: an eighth
    of the side, one pixel for a latent.
  """
  return latents @ (SCALING_FACTOR * jnp.asarray(PREVIEW, latents.dtype))


def _standardize(codec: Codec, data: Array) -> Array:
  mean, std = (jnp.asarray(v, jnp.float32) for v in (codec.mean, codec.std))
  return (data - mean) / std * codec.sigma_d


def _restore(codec: Codec, x0: Array) -> Array:
  mean, std = (jnp.asarray(v, jnp.float32) for v in (codec.mean, codec.std))
  return x0.astype(jnp.float32) / codec.sigma_d * std + mean
