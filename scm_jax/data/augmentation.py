"""Augments images as EDM does (arXiv 2206.00364, F.2).

Every image is mirrored with probability one half. It also undergoes each of
five other changes with a small probability: a vertical flip (with half of that
probability), a scaling, a rotation, a stretching along an axis, and a
translation. Nine numbers describe the change and are an input of the network.
They are zero for an unchanged image, and in sampling.

Flips permute pixels. The other changes form one affine map: an image is doubled
in size, resampled bilinearly and halved again. EDM's filter for both is the
wavelet sym6, which is not symmetric. The filters here are the symmetric taps of
JPEG 2000's wavelet (Cohen, Daubechies and Feauveau), so that quarter turns and
translations by whole pixels are exact up to rounding. Beyond its border an
image is continued by its reflections about the outermost pixels; in EDM, zeros
follow the first.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax.networks import AUGMENTATIONS

# EDM's standard deviations: that of the binary logarithms of scaling and
# stretching, and that of a translation, in sides of the image.
SCALING, MOVE = 0.2, 0.125
# By default, TPUs and recent GPUs multiply with fewer bits than float32 has.
EXACT = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
# CDF 9/7, from the middle tap outwards. The sums over all taps are 2 and 1, so
# that constant images stay constant.
DOUBLING = (
  1.115087052456994,
  0.5912717631142470,
  -0.05754352622849957,
  -0.09127176311424948,
)
HALVING = (
  0.6029490182363579,
  0.2668641184428723,
  -0.07822326652898785,
  -0.01686411844287495,
  0.02674875741080976,
)


class Change(NamedTuple):
  """A change of one image; zeros leave the image unchanged.

  Attributes:
    mirror: 1 where left and right change places, else 0.
    flip: 1 where top and bottom change places, else 0.
    scale: the logarithm of the scaling, in standard deviations.
    angle: the rotation's angle in radians, counter-clockwise on the screen.
    stretch: the logarithm of the stretching, in standard deviations.
    axis: the angle of the stretched axis in radians; the other one shrinks.
    move: the move rightwards and downwards, in standard deviations, `[2]`.
  """

  mirror: Array
  flip: Array
  scale: Array
  angle: Array
  stretch: Array
  axis: Array
  move: Array

  @property
  def condition(self) -> Array:
    """Returns the input of the network, float32 `[AUGMENTATIONS]`."""
    numbers = [
      self.mirror,
      self.flip,
      self.scale,
      jnp.cos(self.angle) - 1,
      jnp.sin(self.angle),
      self.stretch * jnp.cos(self.axis),
      self.stretch * jnp.sin(self.axis),
      *self.move,
    ]
    return jnp.stack(numbers).astype(jnp.float32)


def draw(key: Array, probability: float, upright: bool = False) -> Change:
  """Draws the change of one image; mirroring has a probability of its own.

  An image that stays `upright` is neither flipped vertically nor rotated.
  """
  turning = 0.0 if upright else 1.0
  keys = iter(jax.random.split(key, 13))

  def normal(*shape: int) -> Array:
    return jax.random.normal(next(keys), shape)

  def half() -> Array:
    return jax.random.bernoulli(next(keys), 0.5)

  def turn() -> Array:
    return jax.random.uniform(next(keys), (), minval=-np.pi, maxval=np.pi)

  def sometimes(value: Array) -> Array:
    return value * jax.random.bernoulli(next(keys), probability)

  return Change(
    mirror=half().astype(jnp.float32),
    flip=turning * sometimes(half().astype(jnp.float32)),
    scale=sometimes(normal()),
    angle=turning * sometimes(turn()),
    stretch=sometimes(normal()),
    axis=turn() * half(),  # half of the time along the image's axes, as in EDM
    move=sometimes(normal(2)),
  )


def augment(
  images: Array, key: Array, probability: float, upright: bool = False
) -> tuple[Array, Array]:
  """Changes images `[B, H, W, C]` at random, each with its own random key.

  With a probability of 0, no image is changed, not even mirrored; `upright`
  ones stay so.

  Returns:
    The images, and the network's inputs, `[B, AUGMENTATIONS]`.
  """
  if not probability:
    return images, jnp.zeros((len(images), AUGMENTATIONS))
  keys = jax.random.split(key, len(images))
  changes = jax.vmap(lambda key: draw(key, probability, upright))(keys)
  conditions = jax.vmap(lambda change: change.condition)(changes)
  return jax.vmap(apply)(images, changes), conditions


def apply(image: Array, change: Change) -> Array:
  """Changes one image `[H, W, C]`; flips alone only permute its pixels."""
  image = jnp.where(change.mirror > 0, image[:, ::-1], image)
  image = jnp.where(change.flip > 0, image[::-1], image)
  affine = jnp.stack([change.scale, change.angle, change.stretch, *change.move])
  pixels = change.move * MOVE * jnp.array([image.shape[1], image.shape[0]])
  resampled = resample(image, _back(change), pixels)
  return jnp.where(jnp.any(affine != 0), resampled, image)


def _back(change: Change) -> Array:
  """Returns the linear map from new to old positions of pixels, `[2, 2]`."""
  log_scale, log_stretch = SCALING * change.scale, SCALING * change.stretch
  # On the screen y points down, where a positive angle turns clockwise.
  turned, axis = _rotation(change.angle), _rotation(-change.axis)
  widths = jnp.exp2(jnp.stack([-log_stretch, log_stretch]))
  back = EXACT("ij,jk,k,lk->il", turned, axis, widths, axis)
  return jnp.exp2(-log_scale) * back


def _rotation(angle: Array) -> Array:
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])


def resample(image: Array, back: Array, move: Array) -> Array:
  """Returns the image whose value at `p` is `image`'s at `back (p - move)`.

  The coordinates are pixels to the right and down from the image's centre; the
  image `[H, W, C]` has at least two pixels a side.
  """
  height, width, _ = image.shape
  up = _doubling(height), _doubling(width)
  fine = EXACT("ih,jw,hwc->ijc", *up, image)
  # Half pixels, and those beyond the border that the halving filter reaches.
  reach = len(HALVING) - 1
  middle = jnp.array([width - 1.0, height - 1.0])
  down, right = (
    jnp.arange(2 * n - 1 + 2 * reach) - reach for n in image.shape[:2]
  )
  p = jnp.stack(jnp.meshgrid(right, down), -1) - middle
  source = EXACT("xy,hwy->hwx", back, p - 2 * move) + middle
  moved = _bilinear(fine, source[..., 1], source[..., 0])
  return EXACT("hi,wj,ijc->hwc", _halving(height), _halving(width), moved)


def _bilinear(image: Array, row: Array, column: Array) -> Array:
  """Interpolates between pixels; positions are reflected at the border."""
  (top, below), (left, beside) = (
    _split(position, side)
    for position, side in zip((row, column), image.shape[:2], strict=True)
  )
  below, beside = below[..., None], beside[..., None]
  upper, lower = (
    image[row, left] * (1 - beside) + image[row, left + 1] * beside
    for row in (top, top + 1)
  )
  return upper * (1 - below) + lower * below


def _split(position: Array, side: int) -> tuple[Array, Array]:
  """Returns the pixel before a position, and the position's distance to it."""
  last = side - 1
  inside = last - jnp.abs(position % (2 * last) - last)
  whole = jnp.clip(jnp.floor(inside), 0, last - 1)
  return whole.astype(jnp.int32), inside - whole


@functools.cache
def _doubling(side: int) -> np.ndarray:
  """Returns the matrix from pixels to half pixels, `[2 side - 1, side]`."""
  matrix = np.zeros((2 * side - 1, side), np.float32)
  for row, pixel in itertools.product(range(2 * side - 1), range(-2, side + 2)):
    distance = abs(row - 2 * pixel)
    if distance < len(DOUBLING):
      inside = side - 1 - abs(pixel % (2 * side - 2) - (side - 1))
      matrix[row, inside] += DOUBLING[distance]
  return matrix


@functools.cache
def _halving(side: int) -> np.ndarray:
  """Returns the matrix from half pixels, also beyond the border, to pixels."""
  reach = len(HALVING) - 1
  matrix = np.zeros((side, 2 * side - 1 + 2 * reach), np.float32)
  taps = (*HALVING[:0:-1], *HALVING)
  for row in range(side):
    matrix[row, 2 * row : 2 * row + len(taps)] = taps
  return matrix
