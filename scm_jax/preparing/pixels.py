"""The bytes of an image file as pixels of one mode.

Files come in grey, palette, CMYK, 16 bits, with transparency or with a note
that the camera was held sideways. `viewer` shows them as a viewer of images
does; `adm` reads what is stored, as the code of ADM and EDM2 does: transparency
and the note are dropped. Both agree on nearly all of ImageNet.
"""

import io
import re
import warnings
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Convention = Literal["viewer", "adm"]
CONVENTIONS: tuple[Convention, ...] = ("viewer", "adm")

_ORIENTATION = 0x0112  # EXIF's tag
_UPRIGHT = 1


class UnreadableError(Exception):
  """An image that cannot be used, and why, without its name."""


def decode(
  data: bytes, channels: int, convention: Convention = "viewer"
) -> tuple[Image.Image, tuple[str, ...]]:
  """Reads an image file.

  Args:
    data: the file, in any format that Pillow knows; of an animation, the first
      picture is taken.
    channels: 3 for RGB, 1 for grey.
    convention: whether transparency lies on white and EXIF's orientation is
      followed (`viewer`), or neither (`adm`).

  Returns:
    The image, of mode `RGB` or `L`, and what was special: its mode, unless it
    is the wanted one, `rotated`, `transparent`.

  Raises:
    UnreadableError: not an image, a truncated or an enormous one.
  """
  image = _load(data)
  mode = "RGB" if channels == 3 else "L"
  notes = [] if image.mode == mode else [image.mode]
  if convention == "viewer":
    if image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT:
      image = ImageOps.exif_transpose(image)
      notes.append("rotated")
    if image.has_transparency_data:
      image = _on_white(image)
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


def _on_white(image: Image.Image) -> Image.Image:
  layer = image.convert("RGBA")
  white = Image.new("RGBA", layer.size, "white")
  return Image.alpha_composite(white, layer)


def _eight_bits(image: Image.Image) -> Image.Image:
  """16-bit grey as 8-bit grey, which Pillow would clip instead of scale."""
  if image.mode == "F":
    raise UnreadableError("its pixels are floating-point numbers")
  if not image.mode.startswith("I"):
    return image
  levels = np.clip(np.asarray(image, np.int64), 0, 65535)
  return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
