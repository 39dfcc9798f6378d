"""Decodes and crops one image file, to be stored or encoded.

The convention `viewer` shows files as a viewer of images does: transparency
lies on white, and EXIF's note that the camera was held sideways is followed.
`adm` drops both, as the code of ADM and EDM2 does. They agree on nearly all of
ImageNet.
"""

import dataclasses
import io
import re
import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from scm_jax import errors
from scm_jax.errors import UserError
from scm_jax.preparing.index import Item, Source, UnreadableError

Convention = Literal["viewer", "adm"]
_TURNS = {  # by the values of EXIF's orientation; 1 is upright
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class Transform:
  """The form, size and colours in which images are stored.

  Attributes:
    form: `png`, the file to store; `pixels`, an array for the encoder;
      `latents`, stored latents as they are.
    size: the side of the image in pixels.
    channels: 3 for RGB, 1 for grey.
  """

  form: Literal["png", "pixels", "latents"]
  size: int
  channels: int
  convention: Convention = "viewer"


class Prepared(NamedTuple):
  """A transformed item.

  Attributes:
    data: a PNG file, pixels uint8 [size, size, C], or latents float16
      [h, w, 2 C]; None if the item is unreadable.
    notes: what was special about the image; see `decode`.
    error: why the item is unreadable.
  """

  item: Item
  data: Any = None
  label: int | None = None
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
  except UnreadableError as error:
    return Prepared(item, error=str(error))
  except OSError as error:  # the disk's fault, not the image's: never skipped
    reason = error.strerror or str(error)
    raise UserError(f"{item.key} cannot be read: {reason}") from error
  image = centre_crop(image, transform.size)
  if item.mirrored:
    image = ImageOps.mirror(image)
  if transform.form == "pixels":
    return Prepared(item, to_array(image), label, notes)
  file = io.BytesIO()
  image.info.clear()  # profiles and colour keys of the file that it was
  image.save(file, "PNG")
  return Prepared(item, file.getvalue(), label, notes)


def decode(
  data: bytes, channels: int, convention: Convention = "viewer"
) -> tuple[Image.Image, tuple[str, ...]]:
  """Decodes an image file of any format that Pillow knows.

  The first picture of an animation is taken.

  Returns:
    The image, of mode `RGB` for 3 channels or `L` for 1, and what was special:
    its mode, unless it is the wanted one, `rotated`, `transparent`.

  Raises:
    UnreadableError: the file is not an image, truncated or enormous.
  """
  image = open_image(data)
  mode = "RGB" if channels == 3 else "L"
  notes = [] if image.mode == mode else [image.mode]
  if convention == "viewer":
    if (turn := _turn(image)) is not None:
      image = image.transpose(turn)
      notes.append("rotated")
    # Pillow would clip 16-bit grey here.
    if image.has_transparency_data and not image.mode.startswith("I"):
      layer = image.convert("RGBA")
      white = Image.new("RGBA", layer.size, "white")
      image = Image.alpha_composite(white, layer)
      notes.append("transparent")
  if image.mode == "LAB":  # Pillow has no other way to grey
    image = image.convert("RGB")
  return _eight_bits(image).convert(mode), tuple(notes)


def _turn(image: Image.Image) -> Image.Transpose | None:
  """Returns what puts upright an image of a camera that was turned (EXIF).

  Pillow's own function writes all tags anew, and fails where any is damaged.
  """
  try:
    return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
  except Exception:  # damaged tags raise anything
    return None


def open_image(data: bytes, *, whole: bool = True) -> Image.Image:
  """Opens an image file; if it is not to be decoded whole, its header alone.

  Raises:
    UnreadableError: the file is not an image, truncated or enormous.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # odd metadata, large images
      image = Image.open(io.BytesIO(data))
      if whole:
        image.load()
    return image
  except UnidentifiedImageError:
    raise UnreadableError("not an image") from None
  except MemoryError:
    raise
  except Exception as error:  # Pillow's decoders raise anything
    # Without an object's address, so that two runs say the same.
    text = re.sub(r"<[^>]*>", "the file", " ".join(str(error).split()))
    raise UnreadableError(text or type(error).__name__) from error


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
  bicubic filter. Smaller images are enlarged; one of `size` x `size` pixels
  stays as it is.
  """
  while min(image.size) >= 2 * size:
    half = (image.width // 2, image.height // 2)
    image = image.resize(half, Image.Resampling.BOX)
  scale = size / min(image.size)
  width, height = (round(side * scale) for side in image.size)
  image = image.resize((width, height), Image.Resampling.BICUBIC)
  left, top = (width - size) // 2, (height - size) // 2
  return image.crop((left, top, left + size, top + size))


def to_array(image: Image.Image) -> np.ndarray:
  """Returns an image's pixels, uint8 [H, W, C]."""
  array = np.asarray(image)
  return array[..., None] if array.ndim == 2 else array


def _read_latents(data: bytes, size: int) -> np.ndarray:
  """Reads means and deviations that EDM2 stored: [8, size / 8, size / 8]."""
  try:
    array = np.load(io.BytesIO(data), allow_pickle=False)
  except Exception as error:  # NumPy raises many kinds for a damaged file
    reason = f"not a NumPy array: {errors.one_line(error)}"
    raise UnreadableError(reason) from error
  expected = [8, size // 8, size // 8]
  if list(array.shape) != expected or array.dtype.kind != "f":
    raise UnreadableError(
      f"{array.dtype} {list(array.shape)}, not means and deviations {expected}"
    )
  with np.errstate(over="ignore"):  # to infinity, which is refused
    stored = np.ascontiguousarray(array.transpose(1, 2, 0), np.float16)
  if not np.isfinite(stored).all() or (stored[..., 4:] < 0).any():
    raise UnreadableError("not finite in float16, or deviations below 0")
  return stored
