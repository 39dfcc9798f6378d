"""What a client is sent: pictures as PNG, arrays as npz, frames of a stream."""

import io
import json
import math
import struct
from typing import Any

import numpy as np

from scm_jax import image_grid
from scm_jax.serving.engine import Drawing


def png(drawing: Drawing) -> bytes:
  """Returns the PNG of all images, in a grid that is about square."""
  columns = math.ceil(math.sqrt(len(drawing.images)))
  return image_grid.encode_png(image_grid.image_grid(drawing.images, columns))


def npz(drawing: Drawing) -> bytes:
  """Returns `samples` and `labels`, as `scm-jax sample` writes them."""
  buffer = io.BytesIO()
  label = drawing.request.label
  np.savez_compressed(buffer, samples=drawing.images, labels=label)
  return buffer.getvalue()


FORMATS = {"png": ("image/png", png), "npz": ("application/zip", npz)}


def facts(drawing: Drawing) -> dict[str, Any]:
  """Returns what a client may show of a drawing, as JSON's types."""
  return {
    "shape": list(drawing.images.shape),
    "labels": drawing.request.label.tolist(),
    "ms": round(1e3 * drawing.seconds, 3),
    "evaluations": drawing.request.evaluations,
  }


def frame(drawing: Drawing, header: dict[str, Any]) -> bytes:
  """Returns a binary message: the header's length, the header, the pixels.

  Args:
    drawing: what was drawn.
    header: what the header has beside `facts`.

  Returns:
    4 bytes, little-endian; as many bytes of JSON; uint8 pixels in the order of
    the shape `[num, H, W, C]`.
  """
  head = json.dumps(header | facts(drawing)).encode()
  return struct.pack("<I", len(head)) + head + drawing.images.tobytes()
