"""A second classifier, which confirms what the first one says.

Settings, EMA widths and the best weights of a run are chosen by the first
classifier's features, so that scores in them flatter what was chosen. This one
shares neither the seed, nor the split of the images, nor the architecture with
it, and nothing is ever chosen by it (see `extractor.JUDGES`).
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from scm_jax.metrics import classifier, random_features
from scm_jax.metrics.classifier import Network, Settings

NAME = "judge"


@dataclasses.dataclass(frozen=True)
class JudgeSettings(Settings):
  """Everything that determines the second classifier, apart from its data."""

  channels: int = 24
  seed: int = 1
  kernel: int = 5  # side of the first filters

  def network(self, num_classes: int) -> Network:
    """Returns the network that has these settings."""
    return ResidualNet(num_classes, self)


class ResidualNet(Network):
  """Residual blocks between poolings, then features, then class logits.

  Where the first classifier steps with strided convolutions and reads every
  position, this one averages, and takes the mean and the maximum of each
  channel in each quarter of the image.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps [B, H, W, C] in [-1, 1] to features [B, F] and logits [B, K]."""
    channels, side = self.settings.channels, self.settings.kernel
    x = nn.Conv(channels, (side, side), name="conv_in")(x)
    depth = 0
    while max(x.shape[1:3]) > 4:
      x = x + self._conv(channels, f"block_{depth}")(nn.gelu(x))
      channels, depth = 2 * channels, depth + 1
      x = nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False)
      x = nn.Dense(channels, name=f"widen_{depth}")(x)
    x = nn.gelu(x + self._conv(channels, "block_out")(nn.gelu(x)))
    pooled = [random_features.pool(x, reduce) for reduce in (jnp.mean, jnp.max)]
    x = jnp.concatenate(pooled, axis=-1)
    features = nn.Dense(self.settings.features, name="features")(x)
    logits = nn.Dense(self.num_classes, name="logits")(nn.gelu(features))
    return features, logits

  def _conv(self, channels: int, name: str) -> nn.Conv:
    return nn.Conv(channels, (3, 3), name=name)


extractor = functools.partial(
  classifier.extractor, settings=JudgeSettings(), name=NAME
)
