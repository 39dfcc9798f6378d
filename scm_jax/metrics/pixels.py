"""Pixels as features: they need no training and see every blemish."""

import jax
import numpy as np

from scm_jax.metrics import resize
from scm_jax.metrics.extractor import Extractor, check_shape

_POOLED = 8  # the largest side after averaging


def pixel_extractor(image_shape: tuple[int, int, int]) -> Extractor:
  """Returns pixels in [-1, 1], averaged down to at most 8x8, flattened.

  Images of up to 8x8 are taken as they are. Larger ones are area-averaged,
  because the covariance of all their pixels (1,024 for 32x32 grey) would need
  many thousands of images; what is left measures layout and brightness.
  """
  height, width, channels = image_shape
  dim = min(height, _POOLED) * min(width, _POOLED) * channels

  def apply(params: tuple[()], images: jax.Array) -> dict[str, jax.Array]:
    check_shape(images, image_shape)
    x = resize.resize(images, _averaging(height), _averaging(width))
    return {"features": x.reshape(len(images), -1) / 127.5 - 1.0}

  settings = {"image_shape": image_shape, "pooled": _POOLED}
  return Extractor("pixels", dim, (), apply, settings=settings)


def _averaging(size: int) -> np.ndarray:
  """Returns [min(size, 8), size] area averages, whose rows sum to 1."""
  count = min(size, _POOLED)
  edges = np.linspace(0.0, size, count + 1)
  pixel = np.arange(size)
  upper = np.minimum(edges[1:, None], pixel + 1)
  lower = np.maximum(edges[:-1, None], pixel)
  return np.clip(upper - lower, 0.0, None) * (count / size)
