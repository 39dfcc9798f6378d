"""Reads images in class folders or beside EDM2's `dataset.json`, or zipped."""

import abc
import functools
import json
import os
import posixpath
import zipfile
from collections.abc import Iterable

from scm_jax import errors
from scm_jax.errors import ConfigError, UserError
from scm_jax.preparing.index import Index, Item, UnreadableError

IMAGES = frozenset(
  ".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split()
)
LATENTS = ".npy"
LABELS = "dataset.json"  # EDM2's


class FileSource(abc.ABC):
  """Image files, or latents as EDM2 stores them (`.npy`).

  Attributes:
    name: the folder's or archive's name.
  """

  name: str

  @abc.abstractmethod
  def names(self) -> Iterable[str]:
    """Yields the files' relative names, with `/` between folders."""

  @abc.abstractmethod
  def read_file(self, name: str) -> bytes:
    """Reads one file."""

  def read(self, key: str) -> tuple[bytes, int | None]:
    """Reads one file; its label is in the index."""
    return self.read_file(key), None

  def index(self) -> Index:
    """Lists the files.

    Raises:
      UserError: there are no images, both images and latents, images beside
        class folders, or a `dataset.json` that does not fit the files.
    """
    names = list(self.names())
    kept = sorted(name for name in names if _is_data(name))
    if not kept:
      raise UserError(
        f"there are no images in {self.name}; an image is known by the end of "
        f"its name, which is one of {' '.join(sorted(IMAGES))}"
      )
    latents = sum(_suffix(name) == LATENTS for name in kept)
    if latents not in (0, len(kept)):
      raise UserError(
        f"{self.name} holds {len(kept) - latents} images and {latents} latents "
        f"({LATENTS}); keep one kind"
      )
    labelled = LABELS in names
    if labelled:
      with errors.reading(f"{LABELS} in {self.name}"):
        labels = self.read_file(LABELS)
      items, classes = _by_label(kept, labels, self.name)
    else:
      items, classes = _by_folder(kept, self.name)
    ignored = len(names) - len(kept) - labelled
    return Index(self.name, items, classes, bool(latents), ignored)


class FolderSource(FileSource):
  """The files below a folder; links to folders are followed."""

  def __init__(self, path: str):
    self.path = path
    self.name = os.path.basename(os.path.abspath(path))

  def names(self) -> Iterable[str]:
    for folder, _, files in os.walk(
      self.path, onerror=_cannot_list, followlinks=True
    ):
      inside = os.path.relpath(folder, self.path).replace(os.sep, "/")
      for file in files:
        yield posixpath.normpath(f"{inside}/{file}")

  def read_file(self, name: str) -> bytes:
    with open(os.path.join(self.path, name), "rb") as file:
      return file.read()


def _cannot_list(error: OSError) -> None:
  raise ConfigError(
    f"{error.filename} cannot be listed: {error.strerror}"
  ) from error


class ZipSource(FileSource):
  """The files of an archive, or of a folder in it."""

  def __init__(self, path: str, inside: str = ""):
    self.path = path
    self.name = os.path.basename(path)
    self.inside = f"{inside.strip('/')}/" if inside.strip("/") else ""

  @functools.cached_property
  def _archive(self) -> zipfile.ZipFile:
    with errors.reading(self.path):
      return zipfile.ZipFile(self.path)

  def names(self) -> Iterable[str]:
    for name in self._archive.namelist():
      if name.startswith(self.inside) and not name.endswith("/"):
        yield name[len(self.inside) :]

  def read_file(self, name: str) -> bytes:
    try:
      return self._archive.read(self.inside + name)
    except OSError:
      raise
    except Exception as error:  # zipfile raises many kinds for a damaged file
      raise UnreadableError(errors.one_line(error)) from error


def _suffix(name: str) -> str:
  return posixpath.splitext(name)[1].lower()


def _is_data(name: str) -> bool:
  """Returns whether a file is an image or a latent, and not hidden."""
  parts = name.split("/")
  hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
  return not hidden and _suffix(name) in IMAGES | {LATENTS}


def _by_folder(
  names: list[str], where: str
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
  """Takes the sorted folders, below any that all images share, as classes."""
  parts = [name.split("/") for name in names]
  depth = 0
  while all(len(part) > depth + 2 for part in parts) and (
    len({part[depth] for part in parts}) == 1
  ):
    depth += 1
  loose = [
    name
    for name, part in zip(names, parts, strict=True)
    if len(part) == depth + 1
  ]
  if len(loose) == len(names):
    return tuple(Item(name) for name in names), ()
  if loose:
    raise UserError(
      f"{where} has {len(loose)} images beside its class folders, such as "
      f"{loose[0]}; move them into one folder for each class"
    )
  classes = sorted({part[depth] for part in parts})
  labels = {name: label for label, name in enumerate(classes)}
  items = tuple(
    Item(name, labels[part[depth]])
    for name, part in zip(names, parts, strict=True)
  )
  return items, tuple(classes)


def _by_label(
  names: list[str], data: bytes, where: str
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
  """Takes the labels of EDM2's file: pairs of a name and a number, or null."""
  try:
    labels = json.loads(data)["labels"]
    labels = None if labels is None else dict(labels)
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"{where}: {LABELS} holds no 'labels' of the form [[name, number], ...]"
    ) from error
  if not labels:
    return tuple(Item(name) for name in names), ()
  for name in names:
    label = labels.get(name)
    if type(label) is not int or label < 0:
      raise UserError(
        f"{where}: {LABELS} gives {name} the label {label!r}; give each image "
        "a number from 0 on"
      )
  count = max(labels[name] for name in names) + 1
  items = tuple(Item(name, labels[name]) for name in names)
  return items, tuple(str(label) for label in range(count))
