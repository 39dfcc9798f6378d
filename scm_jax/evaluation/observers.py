"""Observers of a pass over images: they keep labels, pictures, or all samples.

`streaming.Observer` says what their methods do.
"""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from scm_jax import files
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


class SampleFile(NamedTuple):
  """A file of samples, beside which `NAME.asked` says what they answer.

  Attributes:
    path: the .npy file.
    asked: a digest of what is asked of the evaluation that wants them.
  """

  path: pathlib.Path
  asked: str

  @property
  def partial(self) -> pathlib.Path:
    """The file while it is being written."""
    return self.path.with_name(f"{self.path.name}.{self.asked[:24]}.partial")

  @property
  def note(self) -> pathlib.Path:
    """The file with the digest of what complete samples answer."""
    return self.path.with_name(f"{self.path.name}.asked")

  def complete(self) -> bool:
    """Returns whether all samples are there, and answer what is asked."""
    if not self.path.exists():
      return False
    with contextlib.suppress(OSError, ValueError):
      if self.note.read_text().strip() == self.asked:
        return True
    logging.info("%s may answer another question; it is drawn anew", self.path)
    return False


class SampleWriter(ImagePicker):
  """An `ImagePicker` that also writes all images to an .npy file."""

  def __init__(self, indices: list[int], file: SampleFile, total: int):
    """Prepares the file of `total` images; `finish` gives it its name."""
    super().__init__(indices)
    self._file, self._total = file, total
    self._images: np.memmap | None = None

  def see(self, start: int, count: int, images: Any) -> None:
    super().see(start, count, images)
    with files.writing(self._file.path):
      if self._images is None:
        shape = (self._total, *images.shape[1:])
        self._images = _opened(self._file.partial, shape, new=not start)
      self._images[start : start + count] = np.asarray(images)[:count]

  def state(self) -> Arrays:
    if self._images is not None:
      self._images.flush()  # what the state counts is on disk
    return super().state()

  def join(self, states: Iterable[Mapping[str, np.ndarray]]) -> None:
    if not self._file.partial.exists():
      raise ValueError(f"{self._file.partial} is missing")
    super().join(states)

  def finish(self) -> None:
    """Renames the complete file to its final name."""
    self._images = None
    self._file.note.unlink(missing_ok=True)  # it is of the file that goes
    self._file.partial.replace(self._file.path)
    files.write_text(self._file.note, f"{self._file.asked}\n")


def _opened(path: pathlib.Path, shape: tuple[int, ...], new: bool) -> np.memmap:
  """Opens a file of images for writing, or makes it."""
  if not new and path.exists():
    return np.lib.format.open_memmap(path, mode="r+")
  path.parent.mkdir(parents=True, exist_ok=True)
  images = np.lib.format.open_memmap(
    path, mode="w+", dtype=np.uint8, shape=shape
  )
  # A write into the map that finds the disk full would kill the process.
  if hasattr(os, "posix_fallocate"):
    try:
      with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError:
      path.unlink()
      raise
  return images
