"""What a source holds: its images in a fixed order, and their classes.

A source is anything with `list()` and `read(key)`. Where one image comes to lie
depends on its name alone, so that two machines that list the same source
agree.
"""

import dataclasses
import hashlib
from typing import NamedTuple, Protocol


class Item(NamedTuple):
  """One image of a source.

  Attributes:
    key: its name, or its number, in the source.
    label: its class; None if the source has none, or tells when it is read.
    mirrored: whether its mirror image is meant.
  """

  key: str
  label: int | None = None
  mirrored: bool = False


@dataclasses.dataclass(frozen=True)
class Listing:
  """A source's content.

  Attributes:
    name: the source, without the folder that it lies in.
    items: sorted by key.
    classes: names by label; empty where there are no labels.
    latents: whether the items are an autoencoder's outputs, not images.
    ignored: how many files are of no image format.
  """

  name: str
  items: tuple[Item, ...]
  classes: tuple[str, ...]
  latents: bool = False
  ignored: int = 0

  def fingerprint(self) -> str:
    """SHA-256 of the names and labels; the images' content is not read."""
    digest = hashlib.sha256("\0".join(self.classes).encode())
    for item in self.items:
      digest.update(f"\n{item.key}\t{item.label}".encode())
    return digest.hexdigest()


class Source(Protocol):
  """Where images come from. Opening one is cheap, listing it need not be."""

  def list(self) -> Listing: ...

  def read(self, key: str) -> tuple[bytes, int | None]:
    """An image file, and its label where `list` did not give one."""
    ...


def shuffled(items: tuple[Item, ...], mirror: bool) -> list[Item]:
  """The items in the order of a hash of their keys.

  Slices such as `train[:80%]` of the dataset are then random samples, and each
  shard holds about the same.

  Args:
    items: in any order.
    mirror: adds the mirror image of each.
  """
  if mirror:
    items = (*items, *(item._replace(mirrored=True) for item in items))
  return sorted(items, key=_place)


def _place(item: Item) -> tuple[bytes, str, bool]:
  text = f"{item.key}\n{item.mirrored}".encode()
  return hashlib.blake2b(text, digest_size=8).digest(), item.key, item.mirrored
