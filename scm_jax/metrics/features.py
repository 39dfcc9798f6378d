"""Feature extractors: from uint8 images to the vectors that scores compare.

An extractor is parameters and a pure function of them and of a batch. Two are
built in: pixels, which need no training and see every blemish, and the features
of a small classifier trained on the dataset, which see what the images show.
Published networks are in `pretrained`.
"""

import dataclasses
import hashlib
import json
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax.errors import UserError
from scm_jax.image_grid import check_images
from scm_jax.metrics.classifier import Classifier, make_network, normalize


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

  @property
  def params(self) -> Any:
    """What `apply` is given: a tree of arrays."""
    ...

  def apply(self, params: Any, images: Array) -> dict[str, Array]:
    """Features of uint8 images [B, H, W, C]; pure, to be compiled.

    Returns:
      `features`, float32 [B, dim], and of classifiers `logits` [B, K]. A
      sample's depend on no other sample of the batch.
    """
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

  @property
  def params(self) -> tuple[()]:
    """None are needed."""
    return ()

  def apply(self, params: Any, images: Array) -> dict[str, Array]:
    """Features [B, dim] of uint8 images [B, H, W, C]."""
    del params
    if images.shape[1:] != tuple(self.image_shape):
      raise UserError(
        f"images of {list(images.shape[1:])} cannot be compared with images "
        f"of {list(self.image_shape)}"
      )
    rows = _averaging(images.shape[1], self.pooled)
    columns = _averaging(images.shape[2], self.pooled)
    x = jnp.einsum(
      "bhwc,ih,jw->bijc",
      images.astype(jnp.float32),
      *(jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32)),
      precision="highest",
    )
    return {"features": x.reshape(len(images), -1) / 127.5 - 1.0}


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierExtractor:
  """Features and logits of a classifier trained on the dataset."""

  classifier: Classifier
  name: str = "classifier"

  @property
  def dim(self) -> int:
    """Number of features."""
    return self.classifier.settings.features

  @property
  def params(self) -> dict[str, Any]:
    """The network's, and the scale of its features."""
    scale = np.float32(self.classifier.scale)
    return {"network": self.classifier.params, "scale": scale}

  def apply(self, params: Any, images: Array) -> dict[str, Array]:
    """Features [B, F] and logits [B, K] of uint8 images [B, H, W, C]."""
    trained = self.classifier
    if images.shape[1:] != trained.image_shape:
      raise UserError(
        f"the classifier takes images of {list(trained.image_shape)}, not "
        f"{list(images.shape[1:])}"
      )
    network = make_network(trained.settings, trained.num_classes)
    features, logits = network.apply(
      {"params": params["network"]}, normalize(images)
    )
    return {"features": features * params["scale"], "logits": logits}


def extract(
  extractor: Extractor, images: np.ndarray, size: int = 256
) -> np.ndarray:
  """Features [N, dim] float32 of a few uint8 images [N, H, W, C].

  Raises:
    UserError: no uint8 images, or of a shape that it does not take.
  """
  images = np.asarray(images)
  check_images(images)
  apply = jax.jit(extractor.apply)
  size, parts = min(size, len(images)), []
  for start in range(0, len(images), size):
    # The last batch is filled up, so that one program serves all.
    index = np.minimum(np.arange(start, start + size), len(images) - 1)
    parts.append(np.asarray(apply(extractor.params, images[index])["features"]))
  return np.concatenate(parts)[: len(images)]


def fingerprint(extractor: Extractor) -> str:
  """Hex digest of everything that an extractor's features depend on."""
  plain: dict[str, Any] = {"name": extractor.name, "dim": extractor.dim}
  if dataclasses.is_dataclass(extractor):
    for field in dataclasses.fields(extractor):
      value = getattr(extractor, field.name)
      if isinstance(value, bool | int | float | str | tuple):
        plain[field.name] = value
  digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(extractor.params):
    leaf = np.asarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


def _averaging(size: int, pooled: int) -> np.ndarray:
  """[min(size, pooled), size] area averages; rows sum to 1."""
  count = min(size, pooled)
  edges = np.linspace(0.0, size, count + 1)
  pixel = np.arange(size)
  upper = np.minimum(edges[1:, None], pixel + 1)
  lower = np.maximum(edges[:-1, None], pixel)
  return np.clip(upper - lower, 0.0, None) * (count / size)
