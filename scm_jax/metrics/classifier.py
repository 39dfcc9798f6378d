"""A small classifier, trained here on the dataset, as a feature extractor.

Public feature networks (Inception, DINOv2) say little about 8x8 digits, so
small datasets get their own: a few strided convolutions, a linear feature
layer of modest width and a softmax. Shifts and noise during training keep the
features smooth functions of the image; the width is small so that a few
hundred images give a stable covariance. Training is deterministic in its seed
and takes seconds on a CPU.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scm_jax.errors import UserError
from scm_jax.image_grid import check_images


@dataclasses.dataclass(frozen=True)
class Settings:
  """What determines a classifier, apart from its data.

  Attributes:
    features: width of the feature layer.
    channels: of the first convolution; doubled with every halving of size.
    steps: optimiser steps.
    batch_size: images per step.
    learning_rate: peak of the cosine schedule.
    weight_decay: AdamW's.
    noise: standard deviation of the added noise, images being in [-1, 1].
    held_out: share of the images kept for measuring the accuracy.
    seed: of the split, the initial weights and the augmentation.
  """

  features: int = 32
  channels: int = 16
  steps: int = 2000
  batch_size: int = 64
  learning_rate: float = 3e-3
  weight_decay: float = 1e-2
  noise: float = 0.2
  held_out: float = 0.2
  seed: int = 0


class FeatureNet(nn.Module):
  """Convolutions down to 4x4, then features, then class logits."""

  num_classes: int
  features: int
  channels: int

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps [B, H, W, C] in [-1, 1] to features [B, F] and logits [B, K]."""
    channels = self.channels
    if x.shape[1] <= 8:  # tiny images: look once before throwing pixels away
      x = nn.silu(nn.Conv(channels, (3, 3), name="conv_full")(x))
    depth = 0
    while max(x.shape[1:3]) > 4:
      conv = nn.Conv(channels, (3, 3), (2, 2), name=f"conv_{depth}")
      x = nn.silu(conv(x))
      channels, depth = 2 * channels, depth + 1
    x = x.reshape(x.shape[0], -1)
    # The features are linear outputs: smooth, and not clipped at zero.
    features = nn.Dense(self.features, name="features")(x)
    logits = nn.Dense(self.num_classes, name="logits")(nn.silu(features))
    return features, logits


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A trained classifier.

  Attributes:
    params: the network's parameters.
    num_classes: number of classes.
    image_shape: (H, W, C) of the images it takes.
    settings: what it was trained with.
    accuracy: on the held-out images, in [0, 1].
    scale: factor that gives the features of the training images a variance of
      1 on average, so that distances do not depend on the weights' scale.
  """

  params: Any
  num_classes: int
  image_shape: tuple[int, int, int]
  settings: Settings
  accuracy: float
  scale: float

  def features(self, images: np.ndarray) -> np.ndarray:
    """Features [N, F] float32 of uint8 images [N, H, W, C]."""
    return self._apply(images)[0] * np.float32(self.scale)

  def predict(self, images: np.ndarray) -> np.ndarray:
    """Most likely classes [N] of uint8 images [N, H, W, C]."""
    return self._apply(images)[1].argmax(axis=-1)

  def _apply(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = np.asarray(images)
    check_images(images)
    if images.shape[1:] != self.image_shape:
      raise UserError(
        f"the classifier takes images of {list(self.image_shape)}, not "
        f"{list(images.shape[1:])}"
      )
    network = make_network(self.settings, self.num_classes)
    return apply_in_batches(network, self.params, images)


def make_network(settings: Settings, num_classes: int) -> FeatureNet:
  """The network that settings and data ask for."""
  return FeatureNet(
    num_classes=num_classes,
    features=settings.features,
    channels=settings.channels,
  )


def normalize(images: np.ndarray | jax.Array) -> jax.Array:
  """Maps uint8 to float32 in [-1, 1]."""
  return jnp.asarray(images, jnp.float32) / 127.5 - 1.0


@functools.partial(jax.jit, static_argnums=0)
def _forward(network: FeatureNet, params: Any, images: jax.Array):
  return network.apply({"params": params}, normalize(images))


def apply_in_batches(
  network: FeatureNet, params: Any, images: np.ndarray, size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
  """Features and logits of all images; one compilation for any number."""
  outputs = []
  for start in range(0, len(images), size):
    part = images[start : start + size]
    missing = size - len(part)
    padded = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
    features, logits = _forward(network, params, padded)
    outputs.append(
      (np.asarray(features)[: len(part)], np.asarray(logits)[: len(part)])
    )
  features, logits = zip(*outputs, strict=True)
  return np.concatenate(features), np.concatenate(logits)
