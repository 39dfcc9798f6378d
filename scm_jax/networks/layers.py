"""Linen layers shared by the networks: linear maps and time embeddings."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from scm_jax.networks import magnitude

Dtype = Any


class Linear(nn.Module):
  """Magnitude-preserving dense or convolutional layer without bias.

  Attributes:
    features: output channels.
    kernel: spatial kernel size; `()` is a dense layer on `[..., C]`.
    dtype: of the computation; weights are kept in float32.
  """

  features: int
  kernel: tuple[int, ...] = ()
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
    """Maps `[..., C]` or `[B, H, W, C]` to `features` channels."""
    shape = (*self.kernel, x.shape[-1], self.features)
    init = nn.initializers.normal(stddev=1.0)
    w = self.param(magnitude.WEIGHT, init, shape)
    fan_in = w.size // self.features
    # Scaled in float32 before the cast, so bfloat16 rounds only once.
    w = (w * (gain / fan_in**0.5)).astype(self.dtype)
    x = x.astype(self.dtype)
    if self.kernel in ((), (1, 1)):
      return x @ w.reshape(w.shape[-2:])
    return lax.conv_general_dilated(
      x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def positional_features(x: Array, features: int) -> Array:
  """Transformer sinusoids of a scalar, of unit magnitude (Section 4.1).

  The highest frequency is 1 and the input is not scaled, so that for `t` in
  radians the derivative by `t` stays bounded: the paper's cure for the Fourier
  embedding's exploding tangents.

  Args:
    x: `[B]`, float32 or wider.
    features: even number of outputs.

  Returns:
    `[B, features]`: cosines, then sines, times the root of two.
  """
  half = features // 2
  frequencies = 10_000.0 ** (-jnp.arange(half, dtype=x.dtype) / (half - 1))
  angles = x[:, None] * frequencies
  both = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
  return both * 2**0.5


class FourierFeatures(nn.Module):
  """Random Fourier features of a scalar (EDM2, Equation 75); not trained."""

  features: int
  bandwidth: float = 1.0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[B]` to `[B, features]` of unit magnitude."""
    normal = nn.initializers.normal(stddev=self.bandwidth)
    uniform = nn.initializers.uniform(scale=1.0)
    shape = (self.features,)
    frequencies = self.param("frequencies", normal, shape)
    phases = self.param("phases", uniform, shape)
    turns = x[:, None] * lax.stop_gradient(frequencies)
    angles = 2 * jnp.pi * (turns + lax.stop_gradient(phases))
    return jnp.cos(angles) * 2**0.5


def one_hot_label(label: Array, num_classes: int) -> Array:
  """Class labels `[B]` to one-hot rows of unit magnitude `[B, num_classes]`.

  The label `num_classes` means "no label" and gives a zero row.
  """
  classes = jnp.arange(num_classes)
  return (label[:, None] == classes).astype(jnp.float32) * num_classes**0.5
