"""Feature extractors: from uint8 images to the vectors that scores compare.

An extractor is anything with a name, a dimension and a call. Two are built
in: pixels, which need no training and see every blemish, and the features of
a small classifier trained on the dataset, which see what the images show.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from scm_jax.errors import ConfigError, UserError
from scm_jax.metrics import classifier_cache
from scm_jax.metrics.classifier import Classifier, Settings
from scm_jax.pictures import check_images

NAMES = ("pixels", "classifier")


class Extractor(Protocol):
  """Maps images to features."""

  @property
  def name(self) -> str:
    """Key of its scores in reports."""
    ...

  @property
  def dim(self) -> int:
    """Number of features."""
    ...

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Features [N, dim], any float type, of uint8 images [N, H, W, C]."""
    ...


@dataclasses.dataclass(frozen=True)
class PixelExtractor:
  """Pixels in [-1, 1], averaged down to at most `pooled` a side, flattened.

  Images of up to 8x8 are taken as they are. Larger ones are area-averaged to
  8x8, because the covariance of all their pixels (1,024 for 32x32 grey) would
  need many thousands of images; what is left measures layout and brightness.

  Attributes:
    image_shape: (H, W, C) of the images.
    pooled: largest side after averaging.
    name: key of its scores in reports.
  """

  image_shape: tuple[int, int, int]
  pooled: int = 8
  name: str = "pixels"

  @property
  def dim(self) -> int:
    """Number of features."""
    height, width, channels = self.image_shape
    return min(height, self.pooled) * min(width, self.pooled) * channels

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Features [N, dim] float64 of uint8 images [N, H, W, C]."""
    images = np.asarray(images)
    check_images(images)
    if images.shape[1:] != tuple(self.image_shape):
      raise UserError(
        f"images of {list(images.shape[1:])} cannot be compared with images "
        f"of {list(self.image_shape)}"
      )
    rows = _averaging(images.shape[1], self.pooled)
    columns = _averaging(images.shape[2], self.pooled)
    x = np.tensordot(images, columns, axes=(2, 1))  # [N, H, C, w]
    x = np.tensordot(x, rows, axes=(1, 1))  # [N, C, w, h]
    return x.transpose(0, 3, 2, 1).reshape(len(images), -1) / 127.5 - 1.0


@dataclasses.dataclass(frozen=True)
class ClassifierExtractor:
  """Features of a classifier trained on the dataset."""

  classifier: Classifier
  name: str = "classifier"

  @property
  def dim(self) -> int:
    """Number of features."""
    return self.classifier.settings.features

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Features [N, dim] float32 of uint8 images [N, H, W, C]."""
    return self.classifier.features(images)


def make_extractors(
  names: Sequence[str],
  images: np.ndarray,
  labels: np.ndarray | None,
  cache_dir: str | os.PathLike[str],
  settings: Settings | None = None,
) -> list[Extractor]:
  """Builds extractors for a dataset, training its classifier if need be.

  Args:
    names: which ones, of `NAMES`.
    images: [N, H, W, C] uint8, the dataset.
    labels: [N] integers from 0, or None if there are none.
    cache_dir: where trained classifiers are kept.
    settings: how a classifier is trained.

  Returns:
    One extractor per name, in order.

  Raises:
    ConfigError: an unknown name, or a classifier without labels.
  """
  extractors: list[Extractor] = []
  for name in names:
    if name == "pixels":
      extractors.append(PixelExtractor(images.shape[1:]))
    elif name == "classifier":
      if labels is None:
        raise ConfigError(
          "features 'classifier' need a dataset with labels; use 'pixels'"
        )
      trained = classifier_cache.load_or_train(
        images, labels, cache_dir, settings
      )
      extractors.append(ClassifierExtractor(trained))
    else:
      known = ", ".join(NAMES)
      raise ConfigError(f"unknown features {name!r}: choose from {known}")
  return extractors


def _averaging(size: int, pooled: int) -> np.ndarray:
  """[min(size, pooled), size] area averages; rows sum to 1."""
  count = min(size, pooled)
  edges = np.linspace(0.0, size, count + 1)
  pixel = np.arange(size)
  upper = np.minimum(edges[1:, None], pixel + 1)
  lower = np.maximum(edges[:-1, None], pixel)
  return np.clip(upper - lower, 0.0, None) * (count / size)
