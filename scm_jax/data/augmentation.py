"""EDM's augmentation, as the network is told of it (arXiv 2206.00364, F.2).

Every image is mirrored with probability one half. Each of five other changes is
made with a small probability: turned upside down (half of the time), scaled,
rotated, stretched along an axis, moved. Nine numbers say what was done and are
a condition of the network; all are zero for an image as it was, and in
sampling. So the network learns from all images and draws only such as the
dataset has.

Flips permute pixels. What else is done is one affine map, for which an image is
doubled in size, resampled there bilinearly and halved again, as in EDM. EDM's
filter, both ways, is the wavelet sym6. It is not symmetric, so that a quarter
turn would not quite permute the pixels. Here doubling uses the 7 taps, halving
the 9 taps of the biorthogonal wavelet of Cohen, Daubechies and Feauveau
(JPEG 2000's), which are symmetric: the identity, quarter turns and moves by
whole pixels are exact, to rounding. Beyond its border an image is continued by
its reflection about the outermost pixels, without end; EDM's reflection ends
after one image, and zeros follow.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax.networks import AUGMENTATIONS

# EDM's deviations: of the logarithm to base 2 of both scalings, and of a move
# in sides of the image.
SCALING, MOVE = 0.2, 0.125
# The products of TPUs and recent GPUs would else be shorter than float32.
EXACT = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
# CDF 9/7, from the middle tap outwards. The sums over all taps are 2 and 1, so
# that a constant stays one.
DOUBLING = (
  *(1.115087052456994, 0.5912717631142470),
  *(-0.05754352622849957, -0.09127176311424948),
)
HALVING = (
  *(0.6029490182363579, 0.2668641184428723),
  *(-0.07822326652898785, -0.01686411844287495, 0.02674875741080976),
)


class Change(NamedTuple):
  """What is done to one image; all zero is nothing.

  Attributes:
    mirror, flip: 1 where left and right, or top and bottom, change places.
    scale: in deviations of the logarithm.
    angle: of the rotation in radians, counter-clockwise on the screen.
    stretch: in deviations of the logarithm.
    axis: angle of the axis that is stretched; the other one shrinks.
    move: rightwards and downwards, in deviations, `[2]`.
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
    """What the network is told, `[AUGMENTATIONS]` float32."""
    return jnp.stack(
      [
        *(self.mirror, self.flip, self.scale),
        *(jnp.cos(self.angle) - 1, jnp.sin(self.angle)),
        *(self.stretch * jnp.cos(self.axis), self.stretch * jnp.sin(self.axis)),
        *self.move,
      ]
    ).astype(jnp.float32)


def draw(key: Array, probability: float) -> Change:
  """Draws the change of one image.

  Args:
    key: of that image.
    probability: of each change but mirroring, which is drawn always.
  """
  keys = iter(jax.random.split(key, 13))
  normal = lambda *shape: jax.random.normal(next(keys), shape)
  half = lambda: jax.random.bernoulli(next(keys), 0.5)
  turn = lambda: jax.random.uniform(next(keys), (), minval=-np.pi, maxval=np.pi)
  sometimes = lambda x: x * jax.random.bernoulli(next(keys), probability)
  return Change(
    mirror=half().astype(jnp.float32),
    flip=sometimes(half().astype(jnp.float32)),
    scale=sometimes(normal()),
    angle=sometimes(turn()),
    stretch=sometimes(normal()),
    axis=turn() * half(),  # half of them along the image's own axes, as EDM
    move=sometimes(normal(2)),
  )


def augment(
  images: Array, key: Array, probability: float
) -> tuple[Array, Array]:
  """Changes images at random, each by a key of its own.

  Args:
    images: `[B, H, W, C]`, in any range.
    key: from which those of the images are split.
    probability: see `draw`; 0 leaves all images as they are, mirroring too.

  Returns:
    The images, and what the network is told of each, `[B, AUGMENTATIONS]`.
  """
  if not probability:
    return images, jnp.zeros((len(images), AUGMENTATIONS))
  keys = jax.random.split(key, len(images))
  changes = jax.vmap(functools.partial(draw, probability=probability))(keys)
  told = jax.vmap(lambda change: change.condition)(changes)
  return jax.vmap(apply)(images, changes), told


def apply(image: Array, change: Change) -> Array:
  """One image `[H, W, C]`, changed. Without an affine part its pixels stay."""
  image = jnp.where(change.mirror > 0, image[:, ::-1], image)
  image = jnp.where(change.flip > 0, image[::-1], image)
  affine = jnp.stack([change.scale, change.angle, change.stretch, *change.move])
  pixels = change.move * MOVE * jnp.array([image.shape[1], image.shape[0]])
  resampled = resample(image, _back(change), pixels)
  return jnp.where(jnp.any(affine != 0), resampled, image)


def _back(change: Change) -> Array:
  """The linear map from where a pixel ends to where it was, `[2, 2]`."""
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
  """The image whose value at `p` is that of `image` at `back (p - move)`.

  Args:
    image: `[H, W, C]`, of at least two pixels a side.
    back: `[2, 2]`, of coordinates (right, down) about the image's centre.
    move: `[2]`, in pixels.
  """
  height, width, _ = image.shape
  up = _doubling(height), _doubling(width)
  fine = EXACT("ih,jw,hwc->ijc", *up, image)
  # In half pixels; beyond the border as far as the halving filter reaches.
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
  """Values between pixels; positions are reflected at the border."""
  (top, below), (left, beside) = (
    _split(position, side)
    for position, side in zip((row, column), image.shape[:2], strict=True)
  )
  below, beside = below[..., None], beside[..., None]
  upper = image[top, left] * (1 - beside) + image[top, left + 1] * beside
  lower = (
    image[top + 1, left] * (1 - beside) + image[top + 1, left + 1] * beside
  )
  return upper * (1 - below) + lower * below


def _split(position: Array, side: int) -> tuple[Array, Array]:
  """The pixel before a position, and how far the position is beyond it."""
  last = side - 1
  inside = last - jnp.abs(position % (2 * last) - last)
  whole = jnp.clip(jnp.floor(inside), 0, last - 1)
  return whole.astype(jnp.int32), inside - whole


@functools.cache
def _doubling(side: int) -> np.ndarray:
  """From pixels to half pixels: `[2 side - 1, side]`."""
  matrix = np.zeros((2 * side - 1, side), np.float32)
  for row in range(2 * side - 1):
    for pixel in range(-2, side + 2):
      distance = abs(row - 2 * pixel)
      if distance < len(DOUBLING):
        inside = side - 1 - abs(pixel % (2 * side - 2) - (side - 1))
        matrix[row, inside] += DOUBLING[distance]
  return matrix


@functools.cache
def _halving(side: int) -> np.ndarray:
  """From half pixels, also beyond the border, to pixels."""
  reach = len(HALVING) - 1
  matrix = np.zeros((side, 2 * side - 1 + 2 * reach), np.float32)
  for row in range(side):
    for offset in range(-reach, reach + 1):
      matrix[row, 2 * row + reach + offset] = HALVING[abs(offset)]
  return matrix
