"""Grids of uint8 images, and PNG files."""

import io
import os

import numpy as np

from scm_jax import files
from scm_jax.errors import UserError


def image_grid(
  images: np.ndarray,
  columns: int,
  *,
  min_size: int = 64,
  gap: int = 2,
) -> np.ndarray:
  """Lays images out in rows, left to right and top to bottom.

  Args:
    images: uint8 images [N, H, W, C]. Channels that are neither grey nor colour
      are shown side by side, in grey.
    columns: the number of images in a row; the last row is filled up with
      white.
    min_size: the least side in pixels; smaller images are enlarged by a whole
      factor (nearest neighbour, so that pixels stay squares).
    gap: the white pixels between and around images.

  Returns:
    The grid, uint8 [height, width, 1 or 3].

  Raises:
    UserError: there are no images, or they have another type or shape.
  """
  images = np.asarray(images)
  if images.ndim == 4 and images.shape[-1] not in (0, 1, 3):
    channels = np.split(images, images.shape[-1], axis=-1)
    images = np.concatenate(channels, axis=2)
  check_images(images)
  if columns < 1:
    raise ValueError(f"columns must be positive, not {columns}")
  factor = max(1, -(-min_size // min(images.shape[1:3])))
  images = images.repeat(factor, axis=1).repeat(factor, axis=2)
  count, height, width, channels = images.shape
  rows = -(-count // columns)
  size = rows * (height + gap) + gap, columns * (width + gap) + gap
  canvas = np.full((*size, channels), 255, np.uint8)
  for index, image in enumerate(images):
    top = gap + (index // columns) * (height + gap)
    left = gap + (index % columns) * (width + gap)
    canvas[top : top + height, left : left + width] = image
  return canvas


def encode_png(image: np.ndarray) -> bytes:
  """Returns the PNG file of a uint8 image [H, W, C], C being 1 or 3.

  Raises:
    UserError: the array is no such image.
  """
  from PIL import Image  # imported here, so that others do without Pillow

  image = np.asarray(image)
  check_images(image[None])
  pixels = image[..., 0] if image.shape[-1] == 1 else image
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, format="PNG")
  return buffer.getvalue()


def save_png(
  path: str | os.PathLike[str], image: np.ndarray
) -> os.PathLike[str]:
  """Writes a uint8 image [H, W, C], C being 1 or 3, as PNG, atomically.

  Raises:
    UserError: the array is no such image, or the file cannot be written.
  """
  return files.write_bytes(path, encode_png(image))


def check_images(images: np.ndarray, what: str = "images") -> None:
  """Raises UserError unless `images` are uint8 [N, H, W, 1 or 3], N > 0.

  Args:
    images: the array to check.
    what: the array's name in the message.
  """
  if (
    images.dtype != np.uint8
    or images.ndim != 4
    or images.shape[-1] not in (1, 3)
    or not images.size
  ):
    raise UserError(
      f"{what} must be uint8 [N, H, W, C] with C of 1 or 3, not "
      f"{images.dtype} {list(images.shape)}"
    )
