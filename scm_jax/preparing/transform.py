"""Decodes and crops one image file, to be stored or encoded.

Files come in grey, palette, CMYK, 16 bits, with transparency or with a note
that the camera was held sideways. The convention `viewer` shows them as a
viewer of images does; `adm` reads what is stored, as the code of ADM and EDM2
does: transparency and the note are dropped. Both agree on nearly all of
ImageNet.
"""

import dataclasses
import io
import re
import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from scm_jax import errors
from scm_jax.errors import UserError
from scm_jax.preparing.index import Item, Source, UnreadableError

Convention = Literal["viewer", "adm"]

_ORIENTATION = 0x0112  # EXIF's tag
_UPRIGHT = 1


@dataclasses.dataclass(frozen=True)
class Transform:
  """The form, size and colours in which images are stored.

  Attributes:
    form: `png`, the file to store; `pixels`, an array for the encoder;
      `latents`, stored latents as they are.
    size: the side of the image in pixels.
    channels: 3 or 1.
    convention: see `decode`.
  """

  form: Literal["png", "pixels", "latents"]
  size: int
  channels: int
  convention: Convention


class Prepared(NamedTuple):
  """A transformed item.

  Attributes:
    item: the item.
    data: a PNG file, pixels uint8 [size, size, C], or latents float16
      [h, w, 2 C]; None if the item is unreadable.
    label: the item's class, or None if it has none.
    notes: what was special about the image; see `decode`.
    error: why the item is unreadable.
  """

  item: Item
  data: Any
  label: int | None
  notes: tuple[str, ...] = ()
  error: str = ""


def prepare(source: Source, transform: Transform, item: Item) -> Prepared:
  """Reads and transforms one item; a bad file becomes an `error`.

  Raises:
    UserError: the disk or the system, not the file, is to blame.
  """
  try:
    data, label = source.read(item.key)
    label = item.label if label is None else label
    if transform.form == "latents":
      return Prepared(item, _read_latents(data, transform.size), label)
    image, notes = decode(data, transform.channels, transform.convention)
    image = centre_crop(image, transform.size)
  except UnreadableError as error:
    return Prepared(item, None, None, error=str(error))
  except OSError as error:  # the disk's fault, not the image's: never skipped
    reason = error.strerror or str(error)
    raise UserError(f"{item.key} cannot be read: {reason}") from error
  if item.mirrored:
    image = ImageOps.mirror(image)
  content = to_png(image) if transform.form == "png" else to_array(image)
  return Prepared(item, content, label, notes)


def decode(
  data: bytes, channels: int, convention: Convention = "viewer"
) -> tuple[Image.Image, tuple[str, ...]]:
  """Decodes an image file.

  Args:
    data: the file, in any format that Pillow knows; the first picture of an
      animation is taken.
    channels: 3 for RGB, 1 for grey.
    convention: whether transparency lies on white and EXIF's orientation is
      followed (`viewer`), or neither (`adm`).

  Returns:
    The image, of mode `RGB` or `L`, and what was special: its mode, unless it
    is the wanted one, `rotated`, `transparent`.

  Raises:
    UnreadableError: the file is not an image, truncated or enormous.
  """
  image = _load(data)
  mode = "RGB" if channels == 3 else "L"
  notes = [] if image.mode == mode else [image.mode]
  if convention == "viewer":
    if image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT:
      image = ImageOps.exif_transpose(image)
      notes.append("rotated")
    if image.has_transparency_data:
      layer = image.convert("RGBA")
      white = Image.new("RGBA", layer.size, "white")
      image = Image.alpha_composite(white, layer)
      notes.append("transparent")
  return _eight_bits(image).convert(mode), tuple(notes)


def _load(data: bytes) -> Image.Image:
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # odd metadata, large images
      image = Image.open(io.BytesIO(data))
      image.load()
  except UnidentifiedImageError:
    raise UnreadableError("not an image") from None
  except MemoryError:
    raise
  except Exception as error:  # Pillow's decoders raise anything
    # Without an object's address, so that two runs say the same.
    text = re.sub(r"<[^>]*>", "the file", " ".join(str(error).split()))
    raise UnreadableError(text or type(error).__name__) from error
  return image


def _eight_bits(image: Image.Image) -> Image.Image:
  """Scales 16-bit grey to 8 bits, which Pillow would clip instead."""
  if image.mode == "F":
    raise UnreadableError("its pixels are floating-point numbers")
  if not image.mode.startswith("I"):
    return image
  levels = np.clip(np.asarray(image, np.int64), 0, 65535)
  return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def centre_crop(image: Image.Image, size: int) -> Image.Image:
  """Resizes the shorter side to `size` and cuts the middle of the longer one.

  ImageNet is prepared in this way by ADM (arXiv 2105.05233) and EDM2: an image
  is halved by averaging 2x2 pixels while twice the size fits, then resized by a
  bicubic filter. An image of `size` x `size` stays as it is.

  Args:
    image: an image of any size; smaller ones are enlarged.
    size: the side of the result in pixels.
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


def to_png(image: Image.Image) -> bytes:
  """Encodes an image as a PNG file."""
  file = io.BytesIO()
  image.save(file, "PNG")
  return file.getvalue()


def to_array(image: Image.Image) -> np.ndarray:
  """Returns an image's pixels, uint8 [H, W, C]."""
  array = np.asarray(image)
  return array[..., None] if array.ndim == 2 else array


def stored_shape(size: int) -> list[int]:
  """Returns [h, w, 2 C] of Stable Diffusion's latents of images of a side."""
  return [size // 8, size // 8, 8]


def _read_latents(data: bytes, size: int) -> np.ndarray:
  """Reads EDM2's file of one image: means and deviations, [2 C, h, w]."""
  try:
    array = np.load(io.BytesIO(data), allow_pickle=False)
  except Exception as error:  # NumPy raises many kinds for a damaged file
    reason = f"not a NumPy array: {errors.one_line(error)}"
    raise UnreadableError(reason) from error
  height, width, channels = stored_shape(size)
  expected = [channels, height, width]
  if list(array.shape) != expected or array.dtype.kind != "f":
    raise UnreadableError(
      f"{array.dtype} {list(array.shape)}, not means and deviations {expected}"
    )
  return np.ascontiguousarray(array.transpose(1, 2, 0), np.float16)
