"""Layers shared by the networks: linear maps, resampling, embeddings."""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from scm_jax.compilation import stored
from scm_jax.networks import folding, magnitude, sharded
from scm_jax.networks.config import Dtype, LevelsConfig, NetworkConfig

XAVIER = nn.initializers.xavier_uniform()


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
    w, axes = self._weight(shape, gain)
    x = stored(x.astype(self.dtype))
    if self.kernel in ((), (1, 1)):
      return stored(x @ w.reshape(w.shape[-2:]))
    return stored(folding.convolved(x, w, axes))

  def _weight(
    self, shape: tuple[int, ...], gain: Array | float
  ) -> tuple[Array, str]:
    """Returns the whole weight, of unit output magnitude, and its axes."""
    given = self.get_variable("params", magnitude.WEIGHT)
    if isinstance(given, folding.Folded):  # the gain is in it
      return given.value.astype(self.dtype), given.axes
    if isinstance(given, sharded.Shard):
      part = dataclasses.replace(given, value=scaled(given.value, shape, gain))
      return sharded.gather(part, self.dtype), folding.PLAIN
    init = nn.initializers.normal(stddev=1.0)
    weight = self.param(magnitude.WEIGHT, init, shape)
    return scaled(weight, shape, gain).astype(self.dtype), folding.PLAIN


def scaled(weight: Array, shape: tuple[int, ...], gain: Array | float) -> Array:
  """Scales a weight, or a part of it, to unit output magnitude times the gain.

  The result is float32 or wider, so that a layer in bfloat16 rounds only once
  (and a teacher's weights, kept in bfloat16, but once more).

  Args:
    weight: the weight, or this device's part.
    shape: the whole weight's shape, `[..., in, out]`.
    gain: multiplies it.
  """
  wide = weight.astype(jnp.promote_types(weight.dtype, jnp.float32))
  return wide * (gain / math.prod(shape[:-1]) ** 0.5)


class Dense(nn.Module):
  """Dense layer whose weight is gathered in the type that it computes in.

  Attributes:
    features: output channels.
    dtype: of the computation; parameters are kept in float32.
    weight_init: draws the weight.
    bias: whether it has a bias, which starts at zero.
  """

  features: int
  dtype: Dtype = jnp.float32
  weight_init: nn.initializers.Initializer = XAVIER
  bias: bool = True

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[..., C]` to `features` channels."""
    given = self.get_variable("params", magnitude.WEIGHT)
    if isinstance(given, sharded.Shard):
      weight = sharded.gather(given, self.dtype)
    else:
      shape = (x.shape[-1], self.features)
      weight = self.param(magnitude.WEIGHT, self.weight_init, shape)
    x = stored(x.astype(self.dtype)) @ weight.astype(self.dtype)
    if self.bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,))
      x = x + bias.astype(self.dtype)
    return stored(x)


def resample(x: Array, mode: str) -> Array:
  """Halves (`down`, 2x2 mean) or doubles (`up`, nearest) height and width."""
  batch, height, width, features = x.shape
  if mode == "down":
    x = x.reshape(batch, height // 2, 2, width // 2, 2, features)
    return x.mean(axis=(2, 4))
  if mode == "up":
    return x.repeat(2, axis=1).repeat(2, axis=2)
  return x


def through_levels(
  config: LevelsConfig,
  x: Array,
  block: Callable[..., Array],
  join: Callable[[Array, Array], Array],
  attend_last: bool = False,
) -> Array:
  """Passes features through an encoder and a decoder with skips between them.

  Args:
    config: the sizes of the network.
    x: features `[B, H, W, C]`, which are the first skip.
    block: `block(name, x, features, mode=..., attention=...)` returns what the
      block of that name (see `LevelsConfig.blocks`) makes of `x`.
    join: concatenates channels with those of a skip.
    attend_last: whether only the last block of a level attends in the decoder;
      otherwise all of them do, as in the encoder.

  Returns:
    The last block's features.
  """
  levels = list(zip(config.sides, config.channel_mult, strict=True))
  skips = [x]
  for side, mult in levels:
    attends = side in config.attn_resolutions
    if side != config.sides[0]:
      x = block(f"enc_{side}_down", x, x.shape[-1], mode="down")
      skips.append(x)
    for i in range(config.num_blocks):
      name = f"enc_{side}_{i}"
      x = block(name, x, config.channels * mult, attention=attends)
      skips.append(x)
  for side, mult in reversed(levels):
    if side == config.sides[-1]:
      x = block(f"dec_{side}_in0", x, x.shape[-1], attention=True)
      x = block(f"dec_{side}_in1", x, x.shape[-1])
    else:
      x = block(f"dec_{side}_up", x, x.shape[-1], mode="up")
    for i in range(config.num_blocks + 1):
      attends = side in config.attn_resolutions
      attends &= i == config.num_blocks or not attend_last
      x = join(x, skips.pop())
      name = f"dec_{side}_{i}"
      x = block(name, x, config.channels * mult, attention=attends)
  return x


def to_patches(x: Array, side: int) -> Array:
  """Turns squares of pixels, whose side divides `H` and `W`, into channels.

  The result is `[B, H / side, W / side, side * side * C]`.
  """
  if side == 1:
    return x
  batch, height, width, features = x.shape
  x = x.reshape(batch, height // side, side, width // side, side, features)
  x = x.swapaxes(2, 3)
  return x.reshape(batch, height // side, width // side, -1)


def from_patches(x: Array, side: int) -> Array:
  """Turns channels back into squares of pixels; the inverse of `to_patches`."""
  if side == 1:
    return x
  batch, height, width, features = x.shape
  x = x.reshape(batch, height, width, side, side, features // side**2)
  x = x.swapaxes(2, 3)
  return x.reshape(batch, height * side, width * side, -1)


def positional_features(x: Array, features: int) -> Array:
  """Computes a transformer's sinusoids of a scalar (Section 4.1).

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

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[B]` to `[B, features]` of unit magnitude."""
    normal = nn.initializers.normal(stddev=1.0)
    uniform = nn.initializers.uniform(scale=1.0)
    shape = (self.features,)
    frequencies = self.param("frequencies", normal, shape)
    phases = self.param("phases", uniform, shape)
    turns = x[:, None] * lax.stop_gradient(frequencies)
    angles = 2 * jnp.pi * (turns + lax.stop_gradient(phases))
    return jnp.cos(angles) * 2**0.5


def one_hot_label(label: Array, num_classes: int) -> Array:
  """Turns class labels `[B]` into one-hot rows `[B, num_classes]`, float32.

  They have unit magnitude. The label `num_classes` means "no label" and gives a
  row of zeros.
  """
  classes = jnp.arange(num_classes)
  return (label[:, None] == classes).astype(jnp.float32) * num_classes**0.5


# What a block keeps for its backward pass, which computes the rest again:
# `none` keeps all that this pass reads; `full` nothing inside a block; `dots`
# the results of convolutions and matrix products, so that only cheap pointwise
# operations are repeated. Parameters, their names and all values stay as they
# are. In sCM's step the block's tangent is never differentiated, so nothing of
# it is kept or computed again.
_DOTS = jax.checkpoint_policies.dots_saveable
POLICIES = {"none": None, "full": None, "dots": _DOTS}
# `chunked` attention never keeps its products, which alone have batch axes.
_DOTS_OF_WEIGHTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable


def rematerialized(
  block: type[nn.Module], config: NetworkConfig
) -> type[nn.Module]:
  """Returns the class of a block under the config's policy, `remat`.

  The block is called with `(x, emb, train)`, the last a Python boolean.
  """
  if config.remat == "none":
    return block
  policy = POLICIES[config.remat]
  if config.remat == "dots" and config.attention == "chunked":
    policy = _DOTS_OF_WEIGHTS
  return nn.remat(block, policy=policy, static_argnums=(3,))
