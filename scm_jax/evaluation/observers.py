"""Observers of a pass over images: they keep labels, pictures, or all samples.

`streaming.Observer` says what their methods do.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics.metric import Arrays

_SHOWN = 10  # images of the reference in a report's picture


class LabelCollector:
  """Keeps a dataset's labels, and ten images for the report.

  The images are the first one of each of the ten lowest classes, or else the
  first ten. The state has `labels`, `keys` (classes or indices) and `images`.
  """

  def __init__(self, by_class: bool):
    """Begins with no samples; `by_class` chooses images by their classes."""
    self._by_class = by_class
    self._expected: dict[int, list[int]] = {}
    self._state = {
      "labels": np.zeros(0, np.int32),
      "keys": np.zeros(0, np.int32),
      "images": np.zeros(0, np.uint8),
    }

  def expect(self, start: int, labels: list[int]) -> None:
    """Takes the labels of the batch that begins with sample `start`."""
    self._expected[start] = labels

  def see(self, start: int, count: int, images: Any) -> None:
    labels = np.asarray(self._expected.pop(start), np.int32)[:count]
    keys = labels if self._by_class else start + np.arange(count)
    keys, first = np.unique(keys, return_index=True)
    chosen = np.asarray(images)[first]
    batch = {"labels": labels, "keys": keys, "images": chosen}
    self.join([self._state, batch])

  def state(self) -> Arrays:
    return self._state

  def join(self, states: Iterable[Mapping[str, np.ndarray]]) -> None:
    states, shown = list(states), dict[int, np.ndarray]()
    for state in reversed(states):  # the first image of a key is kept
      shown |= zip(state["keys"].tolist(), state["images"], strict=True)
    keys = sorted(shown)[:_SHOWN]
    self._state = {
      "labels": np.concatenate([state["labels"] for state in states]),
      "keys": np.asarray(keys, np.int32),
      "images": np.asarray([shown[key] for key in keys], np.uint8),
    }


class ImagePicker:
  """Keeps the images with given indices."""

  def __init__(self, indices: list[int]):
    """Begins with no images; an index of -1 stands for a white image."""
    self._wanted, self._found = indices, dict[int, np.ndarray]()

  def see(self, start: int, count: int, images: Any) -> None:
    for index in {0, *self._wanted}:  # the first image tells the shape
      if start <= index < start + count:
        self._found[index] = np.asarray(images[index - start])

  def state(self) -> Arrays:
    return {str(index): image for index, image in self._found.items()}

  def join(self, states: Iterable[Mapping[str, np.ndarray]]) -> None:
    for state in states:
      self._found |= {int(index): image for index, image in state.items()}

  def row(self) -> np.ndarray:
    """Returns the images [n, H, W, C] in the order of their indices."""
    white = np.full_like(self._found[0], 255)
    return np.stack([self._found.get(index, white) for index in self._wanted])


class SampleWriter(ImagePicker):
  """An `ImagePicker` that also writes all images to an .npy file."""

  def __init__(
    self, indices: list[int], path: pathlib.Path, total: int, key: str
  ):
    """Prepares the file of `total` images; `finish` gives it its name.

    `key` tells them from other images that would have the same name.
    """
    super().__init__(indices)
    self._path, self._total = path, total
    self._partial = path.with_name(f"{path.name}.{key}.partial")
    self._file: np.memmap | None = None

  def see(self, start: int, count: int, images: Any) -> None:
    super().see(start, count, images)
    try:
      if self._file is None:
        shape = (self._total, *images.shape[1:])
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        mode = "r+" if start and self._partial.exists() else "w+"
        self._file = np.lib.format.open_memmap(
          self._partial, mode=mode, dtype=np.uint8, shape=shape
        )
      self._file[start : start + count] = np.asarray(images)[:count]
    except OSError as error:
      raise UserError(
        f"cannot write {self._path}: {error.strerror or error}"
      ) from error

  def state(self) -> Arrays:
    if self._file is not None:
      self._file.flush()  # what the state counts is on disk
    return super().state()

  def join(self, states: Iterable[Mapping[str, np.ndarray]]) -> None:
    if not self._partial.exists():
      raise ValueError(f"{self._partial} is missing")
    super().join(states)

  def finish(self) -> None:
    """Renames the complete file to its final name."""
    self._file = None
    self._partial.replace(self._path)
