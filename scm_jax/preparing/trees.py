"""Sources that are files: a folder or a zip, by class folders or as EDM2's."""

import functools
import json
import os
import posixpath
import zipfile
from collections.abc import Iterable
from typing import Protocol

from scm_jax import errors
from scm_jax.errors import ConfigError, UserError
from scm_jax.preparing.listing import Item, Listing
from scm_jax.preparing.pixels import UnreadableError

IMAGES = frozenset(
  ".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split()
)
LATENTS = ".npy"
LABELS = "dataset.json"  # EDM2's


class Files(Protocol):
  """Files with relative names, `/` between folders."""

  name: str

  def names(self) -> Iterable[str]: ...

  def read(self, name: str) -> bytes: ...


class Folder:
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

  def read(self, name: str) -> bytes:
    with open(os.path.join(self.path, name), "rb") as file:
      return file.read()


class Zip:
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

  def read(self, name: str) -> bytes:
    try:
      return self._archive.read(self.inside + name)
    except OSError:
      raise
    except Exception as error:  # zipfile raises many kinds for a damaged file
      raise UnreadableError(errors.one_line(error)) from error


class Tree:
  """Images in class folders, or with labels in EDM2's `dataset.json`."""

  def __init__(self, files: Files):
    self.files = files

  def read(self, key: str) -> tuple[bytes, int | None]:
    return self.files.read(key), None

  def list(self) -> Listing:
    """Sorts the files.

    Raises:
      UserError: no images; images and latents; images beside class folders; a
        `dataset.json` that does not fit.
    """
    names, ignored = [], 0
    latents = 0
    has_labels = False
    for name in self.files.names():
      suffix = posixpath.splitext(name)[1].lower()
      if name == LABELS:
        has_labels = True
      elif _hidden(name) or suffix not in IMAGES | {LATENTS}:
        ignored += 1
      else:
        names.append(name)
        latents += suffix == LATENTS
    where = self.files.name
    if not names:
      raise UserError(
        f"no images in {where}; they are known by their names, which end in "
        f"{' '.join(sorted(IMAGES))}"
      )
    if latents not in (0, len(names)):
      raise UserError(
        f"{where} holds {len(names) - latents} images and {latents} latents "
        f"({LATENTS}); keep one kind"
      )
    names.sort()
    if has_labels:
      with errors.reading(f"{LABELS} in {where}"):
        labels = self.files.read(LABELS)
      items, classes = _edm2(names, labels, where)
    else:
      items, classes = _by_folder(names, where)
    return Listing(where, items, classes, bool(latents), ignored)


def _hidden(name: str) -> bool:
  parts = name.split("/")
  return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _by_folder(
  names: list[str], where: str
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
  """Classes are the sorted folders, below any that all images share."""
  depth = _shared_folders(names)
  parts = [name.split("/")[depth:] for name in names]
  loose = [
    name for name, part in zip(names, parts, strict=True) if not part[1:]
  ]
  if len(loose) == len(names):
    return tuple(Item(name) for name in names), ()
  if loose:
    raise UserError(
      f"{where} has {len(loose)} images beside its class folders, such as "
      f"{loose[0]}; move them into one folder for each class"
    )
  classes = sorted({part[0] for part in parts})
  labels = {name: label for label, name in enumerate(classes)}
  return (
    tuple(
      Item(name, labels[part[0]])
      for name, part in zip(names, parts, strict=True)
    ),
    tuple(classes),
  )


def _shared_folders(names: list[str]) -> int:
  """How many folders all names share, while others lie below them."""
  depth, split = 0, [name.split("/") for name in names]
  while all(len(parts) > depth + 2 for parts in split) and (
    len({parts[depth] for parts in split}) == 1
  ):
    depth += 1
  return depth


def _edm2(
  names: list[str], data: bytes, where: str
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
  """Labels of EDM2's file: pairs of a name and a number, or none at all."""
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


def _cannot_list(error: OSError) -> None:
  raise ConfigError(
    f"{error.filename} cannot be listed: {error.strerror}"
  ) from error
