"""Reads images in class folders or beside EDM2's `dataset.json`, or zipped."""

import functools
import json
import os
import pathlib
import posixpath
import zipfile
from collections.abc import Collection, Iterable
from typing import Protocol

from scm_jax import errors
from scm_jax.errors import ConfigError, UserError
from scm_jax.preparing.index import Index, Item, Source, UnreadableError

IMAGES = frozenset(
  ".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split()
)
LATENTS = ".npy"
LABELS = "dataset.json"  # EDM2's

Labelled = tuple[tuple[Item, ...], tuple[str, ...]]  # items, names of classes


class FileSource(Source, Protocol):
  """Image files, or latents as EDM2 stores them (`.npy`)."""

  name: str

  def names(self) -> Iterable[str]:
    """Yields the files' relative names, with `/` between folders."""
    ...

  def index(self) -> Index:
    """Lists the files.

    Raises:
      UserError: there are no images, both images and latents, images beside
        class folders, or a `dataset.json` that does not fit the files.
    """
    names = list(self.names())
    for name in names:
      if not name.isprintable() and "\udc80" <= max(name) <= "\udcff":
        raise UserError(
          f"{self.name}: the file name {name!r} is not in UTF-8; rename it"
        )
    known = IMAGES | {LATENTS}
    kept = sorted(name for name in names if is_data(name, known))
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
        labels, _ = self.read(LABELS)
      items, classes = _by_label(kept, labels, self.name)
    else:
      items, classes = _by_folder(kept, self.name)
    ignored = len(names) - len(kept) - labelled
    return Index(
      self.name, items, classes, bool(latents), ignored, folders=not labelled
    )


class FolderSource(FileSource):
  """The files below a folder; links to folders are followed."""

  def __init__(self, path: str):
    self.path = pathlib.Path(path)
    self.name = os.path.basename(os.path.abspath(path))

  def names(self) -> Iterable[str]:
    def stop(error: OSError) -> None:
      reason = f"{error.filename} cannot be listed: {error.strerror}"
      raise ConfigError(reason) from error

    lineage: dict[str, frozenset[tuple[int, int]]] = {}
    walk = os.walk(self.path, onerror=stop, followlinks=True)
    for folder, folders, files in walk:
      about = os.stat(folder)
      itself = about.st_dev, about.st_ino
      above = lineage.get(os.path.dirname(folder), frozenset())
      if itself in above:  # by a link, which would be followed for ever
        folders.clear()
        continue
      lineage[folder] = above | {itself}
      inside = pathlib.Path(folder).relative_to(self.path)
      yield from ((inside / file).as_posix() for file in files)

  def read(self, key: str) -> tuple[bytes, None]:
    return (self.path / key).read_bytes(), None


class ZipSource(FileSource):
  """The files of an archive, or of a folder in it."""

  def __init__(self, path: str, inside: str = ""):
    self.path = path
    self.name = os.path.basename(path)
    self.inside = f"{inside.strip('/')}/".removeprefix("/")

  @functools.cached_property
  def _archive(self) -> zipfile.ZipFile:
    with errors.reading(self.path):
      return zipfile.ZipFile(self.path)

  @functools.cached_property
  def _entries(self) -> dict[str, str]:
    """The archive's own names by those with slashes.

    Some programs on Windows write backslashes.
    """
    names = self._archive.namelist()
    if any("/" in name for name in names):
      return {name: name for name in names}
    return {name.replace("\\", "/"): name for name in names}

  def names(self) -> Iterable[str]:
    for name in self._entries:
      if name.startswith(self.inside) and not name.endswith("/"):
        yield name.removeprefix(self.inside)

  def read(self, key: str) -> tuple[bytes, None]:
    try:
      return self._archive.read(self._entries[self.inside + key]), None
    except OSError:
      raise
    except Exception as error:  # zipfile raises many kinds for a damaged file
      raise UnreadableError(errors.one_line(error)) from error


def _suffix(name: str) -> str:
  return posixpath.splitext(name)[1].lower()


def is_data(name: str, suffixes: Collection[str] = IMAGES) -> bool:
  """Returns whether a file has one of the suffixes, and is not hidden."""
  parts = name.split("/")
  hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
  return not hidden and _suffix(name) in suffixes


def _by_folder(names: list[str], where: str) -> Labelled:
  """Takes the sorted folders, below any that all images share, as classes."""
  parts = [name.split("/") for name in names]
  depth = len(os.path.commonprefix([part[:-2] for part in parts]))
  loose = ["/".join(part) for part in parts if len(part) == depth + 1]
  if len(loose) == len(names):
    return tuple(map(Item, names)), ()
  if loose:
    raise UserError(
      f"{where} has {len(loose)} images beside its class folders, such as "
      f"{loose[0]}; move them into one folder for each class"
    )
  classes = sorted({part[depth] for part in parts})
  labels = {name: label for label, name in enumerate(classes)}
  items = (Item("/".join(part), labels[part[depth]]) for part in parts)
  return tuple(items), tuple(classes)


def _by_label(names: list[str], data: bytes, where: str) -> Labelled:
  """Takes the labels of EDM2's file: pairs of a name and a number, or null."""
  try:
    labels = dict(json.loads(data)["labels"] or ())
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"{where}: {LABELS} holds no 'labels' of the form [[name, number], ...]"
    ) from error
  if not labels:
    return tuple(map(Item, names)), ()
  for name in names:
    label = labels.get(name)
    if type(label) is not int or label < 0:
      raise UserError(
        f"{where}: {LABELS} gives {name} the label {label!r}; give each image "
        "a number from 0 on"
      )
  count = max(labels[name] for name in names) + 1
  items = tuple(Item(name, labels[name]) for name in names)
  return items, tuple(map(str, range(count)))
