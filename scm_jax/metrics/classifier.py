"""A small classifier, trained here on the dataset, as a feature extractor.

Public feature networks (Inception, DINOv2) say little about 8x8 digits, so
small datasets get their own: a few strided convolutions, a linear feature
layer of modest width and a softmax. Shifts and noise during training keep the
features smooth functions of the image; the width is small so that a few
hundred images give a stable covariance. Training is deterministic in its seed
and takes seconds on a CPU; see `classifier_training`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything that determines a classifier, apart from its data.

  Attributes:
    features: width of the feature layer.
    channels: channels of the first convolution, which double with every halving
      of the size.
    steps: number of optimiser steps.
    batch_size: number of images in a step.
    learning_rate: peak of the cosine schedule.
    weight_decay: weight decay of AdamW.
    noise: standard deviation of the added noise, images being in [-1, 1].
    held_out: share of the images kept for measuring the accuracy.
    seed: seed of the split, the initial weights and the augmentation.
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
    settings: the settings it was trained with.
    accuracy: share of the held-out images that it classifies correctly.
    scale: factor that gives the features of the training images a variance of
      1 on average, so that distances do not depend on the weights' scale.
  """

  params: Any
  num_classes: int
  image_shape: tuple[int, int, int]
  settings: Settings
  accuracy: float
  scale: float

  @property
  def network(self) -> FeatureNet:
    """Returns the network, without its parameters."""
    return make_network(self.settings, self.num_classes)


def make_network(settings: Settings, num_classes: int) -> FeatureNet:
  """Returns the network of these settings."""
  return FeatureNet(num_classes, settings.features, settings.channels)


def normalize(images: np.ndarray | jax.Array) -> jax.Array:
  """Maps uint8 to float32 in [-1, 1]."""
  return jnp.asarray(images, jnp.float32) / 127.5 - 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierExtractor:
  """Features and logits of a classifier trained on the dataset.

  Attributes:
    classifier: the trained classifier.
    name: the key of its scores in reports.
  """

  classifier: Classifier
  name: str = "classifier"
  outputs = ("features", "logits")

  @property
  def dim(self) -> int:
    """Returns the number of features."""
    return self.classifier.settings.features

  @property
  def params(self) -> dict[str, Any]:
    """Returns the network's parameters and the scale of its features."""
    scale = np.float32(self.classifier.scale)
    return {"network": self.classifier.params, "scale": scale}

  def apply(self, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Computes features [B, F] and logits [B, K] of uint8 images [B, H, W, C].

    Raises:
      UserError: the images have another shape than those of its training.
    """
    trained = self.classifier
    if images.shape[1:] != trained.image_shape:
      raise UserError(
        f"the classifier takes images of {list(trained.image_shape)}, not "
        f"{list(images.shape[1:])}"
      )
    features, logits = trained.network.apply(
      {"params": params["network"]}, normalize(images)
    )
    return {"features": features * params["scale"], "logits": logits}
