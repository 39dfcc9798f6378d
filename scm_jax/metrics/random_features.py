"""Features of random filters, which need neither labels nor training.

Filters that were never trained know nothing of the classes, nor of what a
classifier was taught to overlook, and so see what those of a classifier may
not. Naeem et al. (2020, arXiv:2002.09797) recommend features of untrained
networks where data are unlike those that published networks were trained on.

Each layer is a convolution with random filters of zero mean, a rectifier and an
average over 2x2 pixels, as in scattering transforms; filters of zero mean keep
brightness out of the deeper layers. The sums of brightness and of all layers'
responses in coarse places of the image are projected at random to fewer
numbers. Filters depend on the number of channels and of layers alone, so
features of all datasets of one shape are the same.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax.metrics.extractor import Extractor, Source, check_shape

NAME = "random"
DIM, FILTERS, SIDE = 48, 48, 3
SCALE = 20.0  # gives features of the digits a variance of about 1
PLACES = 2  # a side, in which responses are summed; layers end at this size


def extractor(source: Source) -> Extractor:
  """Returns the features of images of the source's shape."""
  height, width, channels = source.image_shape
  layers = max(1, math.ceil(math.log2(max(height, width) / PLACES)))
  params = _draw(layers, channels)

  def apply(params: Any, images: Array) -> dict[str, Array]:
    check_shape(images, source.image_shape)
    found = _responses(params["filters"], images)
    precision = jax.lax.Precision.HIGHEST
    return {"features": jnp.dot(found, params["matrix"], precision=precision)}

  settings = {"image_shape": list(source.image_shape)}
  return Extractor(NAME, DIM, params, apply, settings=settings)


def _draw(layers: int, channels: int) -> dict[str, Any]:
  """Returns random filters of all layers, and the projection."""
  # Of all generators of NumPy, this one's numbers will never change.
  rng = np.random.RandomState(0)
  filters, count = [], channels
  for _ in range(layers):
    kernel = rng.normal(size=(SIDE, SIDE, count, FILTERS))
    kernel -= kernel.mean(axis=(0, 1), keepdims=True)
    kernel *= math.sqrt(2 / (SIDE**2 * count))
    filters.append(kernel.astype(np.float32))
    count = FILTERS
  responses = (channels + layers * FILTERS) * PLACES**2
  basis, _ = np.linalg.qr(rng.normal(size=(responses, DIM)))
  return {"filters": filters, "matrix": (SCALE * basis).astype(np.float32)}


def _responses(filters: Sequence[Array], images: Array) -> Array:
  """Returns what all layers say of coarse places, [B, responses]."""
  x = images.astype(jnp.float32) / 255.0
  seen = [pool(x)]
  for kernel in filters:
    x = jax.lax.conv_general_dilated(
      x,
      kernel,
      (1, 1),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=jax.lax.Precision.HIGHEST,
    )
    x = nn.avg_pool(nn.relu(x), (2, 2), (2, 2), "SAME", count_include_pad=False)
    seen.append(pool(x))
  return jnp.concatenate(seen, axis=-1)


def pool(x: Array, reduce: Callable[..., Array] = jnp.mean) -> Array:
  """Returns the means, or other numbers, of coarse places, [B, PLACES² C]."""
  rows = jnp.array_split(x, PLACES, axis=1)
  parts = [p for row in rows for p in jnp.array_split(row, PLACES, axis=2)]
  return jnp.concatenate([reduce(part, axis=(1, 2)) for part in parts], axis=-1)
