"""The resizing algorithms that published scores are computed with.

They differ in where a pixel lies, in whether shrinking averages, and in
rounding, which moves a Fréchet distance by more than most methods differ. Each
is a matrix for the rows and one for the columns; Pillow rounds in between.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# The cubic kernel's free parameter: Pillow and torch with antialias take the
# first, torch without antialias the second.
PILLOW_A, TORCH_A = -0.5, -0.75
_BITS = 22  # bits of a fraction in Pillow's arithmetic on bytes


def resize(images: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
  """Returns images [B, h, w, C] in float32, of images [B, H, W, C].

  The matrices are [h, H] for the rows and [w, W] for the columns.
  """
  return jnp.einsum(
    "bhwc,ih,jw->bijc",
    images.astype(jnp.float32),
    jnp.asarray(rows, jnp.float32),
    jnp.asarray(columns, jnp.float32),
    precision=jax.lax.Precision.HIGHEST,  # bfloat16 or TF32 would round
  )


def bilinear_tf1(size: int, wanted: int) -> np.ndarray:
  """Returns the [wanted, size] matrix of TensorFlow 1's `resize_bilinear`.

  Output pixel i lies at `i * size / wanted`: images shift up and left, and
  shrinking skips pixels.
  """
  scale = np.float32(size) / np.float32(wanted)  # TensorFlow rounds here
  return _interpolation(np.arange(wanted, dtype=np.float32) * scale, size)


def bilinear_torch(size: int, wanted: int) -> np.ndarray:
  """Returns the [wanted, size] matrix of torch's `bilinear`, not antialiased.

  Centres of pixels lie at halves; shrinking skips pixels.
  """
  place = (np.arange(wanted) + 0.5) * (size / wanted) - 0.5
  return _interpolation(np.maximum(place, 0.0), size)


def _interpolation(place: np.ndarray, size: int) -> np.ndarray:
  """Returns a matrix that interpolates `size` pixels at `place` [wanted]."""
  low = np.floor(place).astype(int)
  high = np.minimum(low + 1, size - 1)
  matrix = np.zeros((len(place), size))
  each = np.arange(len(place))
  np.add.at(matrix, (each, low), 1.0 - (place - low))
  np.add.at(matrix, (each, high), place - low)
  return matrix


def bicubic_torch(size: int, wanted: int, scale: float) -> np.ndarray:
  """Returns the [wanted, size] matrix of torch's `bicubic`, not antialiased.

  The scale is the width of an output pixel in input pixels: `size / wanted`, or
  the inverse of the scale factor that torch was given.
  """
  place = (np.arange(wanted) + 0.5) * scale - 0.5
  low = np.floor(place).astype(int)
  matrix = np.zeros((wanted, size))
  for tap in range(-1, 3):
    index = np.clip(low + tap, 0, size - 1)  # the border is repeated
    weight = _cubic(place - (low + tap), TORCH_A)
    np.add.at(matrix, (np.arange(wanted), index), weight)
  return matrix


def bicubic_antialiased(size: int, wanted: int) -> np.ndarray:
  """Returns the [wanted, size] matrix of Pillow's bicubic filter.

  It is also torch's with antialias. When shrinking, the kernel is widened. It
  is cut off at the border, and its remaining weights sum to 1.
  """
  scale = size / wanted
  widen = max(scale, 1.0)
  centre = (np.arange(wanted)[:, None] + 0.5) * scale
  first = np.maximum(np.trunc(centre - 2 * widen + 0.5), 0)
  last = np.minimum(np.trunc(centre + 2 * widen + 0.5), size)
  pixel = np.arange(size)
  weight = _cubic((pixel - centre + 0.5) / widen, PILLOW_A)
  weight = np.where((first <= pixel) & (pixel < last), weight, 0.0)
  return weight / weight.sum(axis=1, keepdims=True)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """Evaluates Keys' cubic convolution kernel, supported on [-2, 2]."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = (((x - 5) * x + 8) * x - 4) * a
  return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def bicubic_pillow(images: Array, height: int, width: int) -> Array:
  """Resizes as Pillow's `Image.resize(..., BICUBIC)` does, to the last bit.

  Columns are resized first, and rounded to bytes before the rows. Pillow 13
  begins with the rows where the height shrinks more than the width; scores
  published before it do not. Images are uint8 [B, H, W, C] and so returned.
  """
  x = images.astype(jnp.int32)
  for axis, wanted in ((2, width), (1, height)):
    if x.shape[axis] != wanted:
      x = _pass(x, bicubic_antialiased(x.shape[axis], wanted), axis)
  return x.astype(jnp.uint8)


def _pass(x: Array, matrix: np.ndarray, axis: int) -> Array:
  """Applies a matrix to one axis in Pillow's fixed point, in [0, 255]."""
  # Below 2^31: 255 * 2^22 times the weights' magnitudes, which sum to < 1.5.
  whole = np.trunc(matrix * 2**_BITS + np.copysign(0.5, matrix))
  size = matrix.shape[1]
  first = (matrix != 0).argmax(axis=1)
  last = size - (matrix[:, ::-1] != 0).argmax(axis=1)
  taps = (last - first).max()
  whole = np.pad(whole, ((0, 0), (0, taps))).astype(np.int32)
  shape = [1, 1, 1, 1]
  shape[axis] = len(matrix)
  total = jnp.full((), 1 << (_BITS - 1), jnp.int32)
  for tap in range(taps):
    weight = whole[np.arange(len(matrix)), first + tap].reshape(shape)
    total += weight * jnp.take(x, np.minimum(first + tap, size - 1), axis=axis)
  return jnp.clip(total >> _BITS, 0, 255)
