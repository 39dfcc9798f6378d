"""The content of a source of images: its items and its classes."""

import dataclasses
import hashlib
from typing import NamedTuple, Protocol


class Item(NamedTuple):
  """One image of a source.

  Attributes:
    key: the image's name, or its number, in the source.
    label: the class; None if there is none, or if `Source.read` gives it.
    mirrored: whether the image's mirror image is meant.
  """

  key: str
  label: int | None = None
  mirrored: bool = False


@dataclasses.dataclass(frozen=True)
class Index:
  """All items of a source, sorted by key.

  Attributes:
    name: the source's name, without the folder that it lies in.
    classes: the classes' names by label; empty where there are no labels.
    latents: whether the items are an autoencoder's outputs, not images.
    ignored: the number of files that are not images.
    folders: whether the classes are folders, whose order gives the labels.
  """

  name: str
  items: tuple[Item, ...]
  classes: tuple[str, ...]
  latents: bool = False
  ignored: int = 0
  folders: bool = False

  def fingerprint(self) -> str:
    """Returns a SHA-256 of the names and labels, not of the images."""
    digest = hashlib.sha256("\0".join(self.classes).encode())
    for item in self.items:
      digest.update(f"\n{item.key}\t{item.label}".encode())
    return digest.hexdigest()


class UnreadableError(Exception):
  """An item that cannot be used, and why, without its name."""


class Source(Protocol):
  """A place that images come from. Opening one is cheap; listing may not be."""

  def index(self) -> Index: ...

  def read(self, key: str) -> tuple[bytes, int | None]:
    """Reads an image file, and its label where `index` did not give one.

    Raises:
      UnreadableError: the file is damaged.
      OSError: the disk cannot be read.
    """
    ...


def shuffled(items: tuple[Item, ...], mirror: bool) -> list[Item]:
  """Sorts the items, and with `mirror` their mirror images, by a hash.

  Slices of the dataset such as `train[:80%]` are then random samples. The order
  depends on the names alone, so that all machines agree on it.
  """

  def place(item: Item) -> tuple[bytes, str, bool]:
    key, mirrored = item.key, item.mirrored
    text = f"{key}\n{mirrored}".encode()
    return hashlib.blake2b(text, digest_size=8).digest(), key, mirrored

  if mirror:
    items = (*items, *(item._replace(mirrored=True) for item in items))
  return sorted(items, key=place)
