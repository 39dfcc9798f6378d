"""Pixels as features: they need no training and see every blemish."""

import dataclasses

import numpy as np
from jax import Array

from scm_jax.errors import UserError
from scm_jax.metrics import resize


@dataclasses.dataclass(frozen=True)
class PixelExtractor:
  """Pixels in [-1, 1], averaged down to at most `pooled` a side, flattened.

  Images of up to 8x8 are taken as they are. Larger ones are area-averaged to
  8x8, because the covariance of all their pixels (1,024 for 32x32 grey) would
  need many thousands of images; what is left measures layout and brightness.

  Attributes:
    image_shape: (H, W, C) of the images.
    pooled: the largest side after averaging.
    name: the key of its scores in reports.
  """

  image_shape: tuple[int, int, int]
  pooled: int = 8
  name: str = "pixels"
  outputs = ("features",)
  params = ()

  @property
  def dim(self) -> int:
    """Returns the number of features."""
    height, width, channels = self.image_shape
    return min(height, self.pooled) * min(width, self.pooled) * channels

  def apply(self, params: tuple[()], images: Array) -> dict[str, Array]:
    """Computes features [B, dim] of uint8 images [B, H, W, C]."""
    del params
    if images.shape[1:] != tuple(self.image_shape):
      raise UserError(
        f"images of {list(images.shape[1:])} cannot be compared with images "
        f"of {list(self.image_shape)}"
      )
    rows, columns = (
      _averaging(size, self.pooled) for size in images.shape[1:3]
    )
    x = resize.resize(images, rows, columns)
    return {"features": x.reshape(len(images), -1) / 127.5 - 1.0}


def _averaging(size: int, pooled: int) -> np.ndarray:
  """Returns [min(size, pooled), size] area averages, whose rows sum to 1."""
  count = min(size, pooled)
  edges = np.linspace(0.0, size, count + 1)
  pixel = np.arange(size)
  upper = np.minimum(edges[1:, None], pixel + 1)
  lower = np.maximum(edges[:-1, None], pixel)
  return np.clip(upper - lower, 0.0, None) * (count / size)
