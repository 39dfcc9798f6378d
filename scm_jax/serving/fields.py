"""Reads the fields of a client's JSON object, each within its bounds.

All functions raise `UserError` with one sentence that names the field.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.serving.models import SIZES


def parse(data: bytes) -> Any:
  """Returns the value of a JSON text.

  Raises:
    UserError: it is not JSON.
  """
  try:
    return json.loads(data)
  except (ValueError, RecursionError):
    raise UserError("the request is not JSON") from None


def labels(body: Mapping[str, Any]) -> tuple[int, ...] | None:
  """Returns the classes of the field `labels`; None is every class in turn."""
  given = body.get("labels")
  if given is None:
    return None
  listed = given if isinstance(given, list) else [given]
  fits = lambda label: _is_whole(label) and 0 <= label < 2**31
  if not 0 < len(listed) <= max(SIZES) or not all(map(fits, listed)):
    raise UserError(
      f"'labels' must be a class, a list of at most {max(SIZES)} classes, or "
      "null for every class in turn"
    )
  return tuple(listed)


def whole(
  body: Mapping[str, Any], name: str, default: int, bounds: tuple[int, int]
) -> int:
  """Returns a whole number within bounds that belong to them."""
  value = body.get(name, default)
  if not _is_whole(value) or not bounds[0] <= value <= bounds[1]:
    raise UserError(
      f"{name!r} is {short(value)}, but must be a whole number from "
      f"{bounds[0]} to {bounds[1]}"
    )
  return value


def number(
  body: Mapping[str, Any],
  name: str,
  default: float,
  bounds: tuple[float, float],
) -> float:
  """Returns a number within bounds that belong to them."""
  value = body.get(name, default)
  if not _is_number(value) or not bounds[0] <= value <= bounds[1]:
    raise UserError(
      f"{name!r} is {short(value)}, but must be a number from {bounds[0]:g} "
      f"to {bounds[1]:g}"
    )
  return float(value)


def choice(
  body: Mapping[str, Any], name: str, default: Any, choices: Sequence[Any]
) -> Any:
  """Returns the choice that a value equals, up to a rounded last digit."""
  value = body.get(name, default)
  if _is_number(value):
    for legal in choices:
      if math.isclose(value, legal, abs_tol=1e-6):
        return legal
  listed = ", ".join(f"{legal:g}" for legal in choices)
  raise UserError(f"{name!r} is {short(value)}, but must be one of {listed}")


def array(
  body: Mapping[str, Any], name: str, shape: tuple[int, ...]
) -> np.ndarray:
  """Returns a uint8 array of a shape, whose bytes are encoded in base64."""
  try:
    data = base64.b64decode(body.get(name) or "", validate=True)
  except (TypeError, ValueError):
    data = b""
  if len(data) != math.prod(shape):
    wanted = " x ".join(map(str, shape))
    raise UserError(f"{name!r} must be {wanted} bytes, encoded in base64")
  return np.frombuffer(data, np.uint8).reshape(shape)


def _is_whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
  if isinstance(value, float):
    return math.isfinite(value)
  return _is_whole(value) and abs(value) < 2**53


def short(value: Any) -> str:
  """Returns a value for a message, cut off where it is long."""
  text = json.dumps(value)
  return text if len(text) <= 40 else f"{text[:37]}..."
