"""Writes metrics as `metrics.jsonl`: one JSON object a line."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from scm_jax.training.monitoring.append_file import AppendFile


class JsonlWriter:
  """A writer of lines that hold `step` and then scalars by name."""

  def __init__(self, path: epath.Path, start_step: int):
    """Opens the file and drops its lines of steps after `start_step`.

    A killed run lost the updates of those steps, and this run repeats them.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line and _step(line) <= start_step]
    self._file = AppendFile(path, "".join(x + "\n" for x in kept).encode())

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes a line; NaN and infinities, which JSON lacks, become null."""
    values = {name: _json_number(value) for name, value in scalars.items()}
    line = json.dumps({"step": step} | values) + "\n"
    self._file.write(line.encode())

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Does nothing: the file holds scalars alone."""

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def _step(line: str) -> float:
  """Returns the step of a line; infinity where a kill cut the line short."""
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError, TypeError):
    return float("inf")


def _json_number(value: Any) -> float | int | None:
  value = np.asarray(value).item()
  return value if np.isfinite(value) else None
