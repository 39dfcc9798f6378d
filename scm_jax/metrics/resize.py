"""The resizers that published scores are defined with, and no others.

They differ in where a pixel lies, in whether shrinking averages, and in
rounding; that moves a Fréchet distance by more than most methods differ. Each
is a matrix for rows and one for columns, exact for its sizes; Pillow's rounds
between them. Tests hold each against the library that it is named for.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# Cubic kernels' free parameter: Pillow's, and torch's where it antialiases; and
# torch's where it does not.
PILLOW_A, TORCH_A = -0.5, -0.75
_BITS = 22  # of fractions, in Pillow's arithmetic on bytes


def resize(images: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
  """Applies one matrix to the rows and one to the columns of images.

  Args:
    images: [B, H, W, C].
    rows: [h, H].
    columns: [w, W].

  Returns:
    [B, h, w, C] float32.
  """
  return jnp.einsum(
    "bhwc,ih,jw->bijc",
    images.astype(jnp.float32),
    *(jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32)),
    precision=jax.lax.Precision.HIGHEST,  # bfloat16 or TF32 would round
  )


def bilinear_tf1(size: int, wanted: int) -> np.ndarray:
  """TensorFlow 1's `resize_bilinear`, corners not aligned, [wanted, size].

  Output pixel i lies at `i * size / wanted`: images shift up and left, and
  shrinking skips pixels.
  """
  scale = np.float32(size) / np.float32(wanted)  # rounded as there
  return _interpolation(np.arange(wanted, dtype=np.float32) * scale, size)


def bilinear_torch(size: int, wanted: int) -> np.ndarray:
  """Torch's `interpolate`, `bilinear`, without antialias, [wanted, size].

  Pixels' centres lie at halves; shrinking skips pixels.
  """
  place = (np.arange(wanted) + 0.5) * (size / wanted) - 0.5
  return _interpolation(np.maximum(place, 0.0), size)


def _interpolation(place: np.ndarray, size: int) -> np.ndarray:
  low = np.floor(place).astype(int)
  high = np.minimum(low + 1, size - 1)
  matrix = np.zeros((len(place), size))
  each = np.arange(len(place))
  np.add.at(matrix, (each, low), 1.0 - (place - low))
  np.add.at(matrix, (each, high), place - low)
  return matrix


def bicubic_torch(size: int, wanted: int, scale: float) -> np.ndarray:
  """Torch's `interpolate`, `bicubic`, without antialias, [wanted, size].

  Args:
    size: of the input.
    wanted: of the output.
    scale: input pixels to an output pixel; `size / wanted`, or the inverse of
      the scale factor that torch was given.
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
  """Pillow's bicubic filter, and torch's with antialias, [wanted, size].

  In shrinking, the kernel is widened; beyond the border it is cut off and what
  is left of it sums to 1.
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
  """Keys' cubic convolution kernel, supported on [-2, 2]."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = (((x - 5) * x + 8) * x - 4) * a
  return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def bicubic_pillow(images: Array, height: int, width: int) -> Array:
  """Pillow's `Image.resize(..., BICUBIC)` of uint8 images, to the last bit.

  Columns come first and are rounded to bytes before the rows. Pillow 13 begins
  with the rows where the height shrinks more than the width; what was published
  until then does not.

  Args:
    images: uint8 [B, H, W, C].
    height: of the result.
    width: of the result.

  Returns:
    uint8 [B, height, width, C].
  """
  _, rows, columns, _ = images.shape
  x = images.astype(jnp.int32)
  if columns != width:
    x = _pass(x, bicubic_antialiased(columns, width), axis=2)
  if rows != height:
    x = _pass(x, bicubic_antialiased(rows, height), axis=1)
  return x.astype(jnp.uint8)


def _pass(x: Array, matrix: np.ndarray, axis: int) -> Array:
  """One pass in Pillow's fixed point, int32 to int32 in [0, 255]."""
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
