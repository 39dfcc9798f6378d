"""The square from the middle of an image, at the size that a network takes."""

import io

import numpy as np
from PIL import Image


def centre_crop(image: Image.Image, size: int) -> Image.Image:
  """Resizes the shorter side to `size` and cuts the middle of the longer one.

  As ADM (arXiv 2105.05233) and EDM2 prepare ImageNet: halved by averaging 2x2
  pixels while twice the size fits, then resized by a bicubic filter. An image
  of `size` x `size` stays as it is.

  Args:
    image: of any size; smaller ones are enlarged.
    size: side of the result, in pixels.
  """
  while min(image.size) >= 2 * size:
    width, height = image.size
    half = (width // 2, height // 2)
    image = image.resize(half, Image.Resampling.BOX)
  scale = size / min(image.size)
  width, height = (round(side * scale) for side in image.size)
  image = image.resize((width, height), Image.Resampling.BICUBIC)
  left, top = (width - size) // 2, (height - size) // 2
  return image.crop((left, top, left + size, top + size))


def png(image: Image.Image) -> bytes:
  """The image as a PNG file."""
  file = io.BytesIO()
  image.save(file, "PNG")
  return file.getvalue()


def to_array(image: Image.Image) -> np.ndarray:
  """The image as uint8 [H, W, C]."""
  array = np.asarray(image)
  return array[..., None] if array.ndim == 2 else array
