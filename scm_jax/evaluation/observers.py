"""Observers of a pass over images: they keep labels, pictures, or all samples.

See `streaming.Observer` for what their methods do.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics.statistic import Arrays

_SHOWN = 10  # images of the reference in a report's picture


class LabelCollector:
  """Keeps a dataset's labels, and ten images for the report.

  The images are the first one of each of the ten lowest classes, or else the
  first ten.

  Attributes:
    labels: [n] int32 labels of the samples seen.
  """

  def __init__(self, by_class: bool):
    """Begins with no samples; `by_class` chooses images by their classes."""
    self.labels = np.zeros(0, np.int32)
    self._by_class = by_class
    self._shown: dict[int, np.ndarray] = {}  # by class or index
    self._expected: dict[int, list[int]] = {}

  def expect(self, start: int, labels: list[int]) -> None:
    """Takes the labels of the batch that begins with sample `start`."""
    self._expected[start] = labels

  def see(self, start: int, count: int, images: Any) -> None:
    """Keeps the labels, and the images of classes not seen before."""
    new = np.asarray(self._expected.pop(start), np.int32)[:count]
    self.labels = np.concatenate([self.labels, new])
    keys = new if self._by_class else start + np.arange(count)
    for key in sorted(set(keys.tolist()) - set(self._shown)):
      shown = sorted(self._shown)
      if len(shown) >= _SHOWN and key > shown[_SHOWN - 1]:
        break
      self._shown[key] = np.asarray(images[int(np.argmax(keys == key))])
      self._drop_surplus()

  def _drop_surplus(self) -> None:
    for late in sorted(self._shown)[_SHOWN:]:
      del self._shown[late]

  def state(self) -> Arrays:
    """Returns `labels`, `keys` (classes or indices) and their `images`."""
    keys = sorted(self._shown)
    return {
      "labels": self.labels,
      "keys": np.asarray(keys, np.int32),
      "images": np.asarray([self._shown[key] for key in keys], np.uint8),
    }

  def restore(self, state: Mapping[str, np.ndarray]) -> None:
    """Continues from a state."""
    keys, images = state["keys"].tolist(), state["images"]
    self.labels = state["labels"]
    self._shown = dict(zip(keys, images, strict=True))

  def join(self, states: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Takes the states of all processes, in the order of their samples."""
    labels, self._shown = [], {}
    for state in states:
      labels.append(state["labels"])
      for key, image in zip(
        state["keys"].tolist(), state["images"], strict=True
      ):
        self._shown.setdefault(key, image)
    self.labels = np.concatenate(labels)
    self._drop_surplus()


class ImagePicker:
  """Keeps the images with given indices."""

  def __init__(self, indices: list[int]):
    """Begins with no images; an index of -1 stands for a white image."""
    self._wanted, self._found = indices, dict[int, np.ndarray]()

  def see(self, start: int, count: int, images: Any) -> None:
    """Keeps the images that are wanted."""
    for index in {0, *self._wanted}:  # the first image tells the shape
      if start <= index < start + count:
        self._found[index] = np.asarray(images[index - start])

  def state(self) -> Arrays:
    """Returns the images by their indices."""
    return {str(index): image for index, image in self._found.items()}

  def restore(self, state: Mapping[str, np.ndarray]) -> None:
    """Continues from a state."""
    self._found = {int(index): image for index, image in state.items()}

  def join(self, states: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Takes the states of all processes."""
    for state in states:
      self._found |= {int(index): image for index, image in state.items()}

  def row(self) -> np.ndarray:
    """Returns the images [n, H, W, C] in the order of their indices."""
    white = np.full_like(self._found[0], 255)
    return np.stack([self._found.get(index, white) for index in self._wanted])


class SampleWriter(ImagePicker):
  """An `ImagePicker` that also writes all images to an .npy file."""

  def __init__(self, indices: list[int], path: pathlib.Path, total: int):
    """Prepares the file of `total` images; `finish` gives it its name."""
    super().__init__(indices)
    self._path, self._total = path, total
    self._partial = path.with_name(path.name + ".partial")
    self._file: np.memmap | None = None

  def see(self, start: int, count: int, images: Any) -> None:
    """Writes the images.

    Raises:
      UserError: the file cannot be written.
    """
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
    """Returns the state, when all images that it counts are on disk."""
    if self._file is not None:
      self._file.flush()
    return super().state()

  def restore(self, state: Mapping[str, np.ndarray]) -> None:
    """Continues in the file.

    Raises:
      ValueError: the file is gone.
    """
    if not self._partial.exists():
      raise ValueError(f"{self._partial} is missing")
    super().restore(state)

  def finish(self) -> None:
    """Renames the complete file to its final name."""
    if self._file is not None:
      self._file.flush()
      self._file = None
    self._partial.replace(self._path)
