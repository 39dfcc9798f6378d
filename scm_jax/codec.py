"""Between stored pixels and the network's data space, inside the compiled step.

Datasets hold uint8 images; the network sees data of mean 0 and standard
deviation `sigma_d`. Only uint8 crosses from host to device.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array


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

  def encode(self, images: Array) -> Array:
    """uint8 `[B, H, W, C]` to float32 `x0` of the same shape."""
    scaled = images.astype(jnp.float32) / 127.5 - 1.0
    mean, std = (jnp.asarray(v, jnp.float32) for v in (self.mean, self.std))
    return (scaled - mean) / std * self.sigma_d

  def decode(self, x0: Array) -> Array:
    """`x0` to uint8 images, rounded and clipped to [0, 255]."""
    mean, std = (jnp.asarray(v, jnp.float32) for v in (self.mean, self.std))
    scaled = x0.astype(jnp.float32) / self.sigma_d * std + mean
    pixels = jnp.round((scaled + 1.0) * 127.5)
    return jnp.clip(pixels, 0, 255).astype(jnp.uint8)
