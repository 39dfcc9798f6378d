"""Options of `scm-jax prepare`, and the plan of a dataset that follows."""

import dataclasses
import logging
import math
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import PIL

from scm_jax.errors import ConfigError, UserError
from scm_jax.preparing import file_source
from scm_jax.preparing.index import Index, Source
from scm_jax.preparing.transform import Transform

if TYPE_CHECKING:
  from scm_jax.preparing.latents import Encoder

_log = logging.getLogger(__name__)

TFDS = "tfds:"
# By default there are at most so many files, of at least so many images.
SHARDS, SHARD_IMAGES = 256, 256
VERSION = "1.0.0"  # TFDS's, of every dataset

IMAGENET = (
  "; ImageNet must be downloaded by hand (ILSVRC2012_img_train.tar, 138 GB) "
  "and unpacked into {path}/n01440764/*.JPEG and so on; docs/data.md has the "
  "commands"
)


@dataclasses.dataclass(frozen=True)
class Options:
  """The dataset to make, and this process's part in it.

  Attributes:
    source: the place of the images, or of latents that are stored already: a
      folder, a zip, a folder in a zip (`FILE.zip/FOLDER`) or `tfds:NAME`.
    shape: the shape of a record: `[size, size, C]`, or for latents
      `[h, w, 2 C]`.
    out: the folder of datasets, TFDS's `data_dir`.
    split: the split of a TFDS dataset, or a slice of one.
    tfds_dir: the folder of TFDS datasets and of their downloads.
    encoder: the autoencoder's encoder, for latents of images.
    image_range: the values that the autoencoder takes for black and white.
    mirror: whether each image's mirror image is stored too.
    num_classes: the greatest number of classes allowed, and the least where
      folders are the classes; 0 allows any.
    shards: the number of files; 0 chooses one.
    part: `(i, n)`: this process makes the shards k with `k % n == i`.
    on_error: whether an unreadable image is left out or ends the run.
  """

  source: str
  transform: Transform
  shape: tuple[int, int, int]
  out: pathlib.Path
  name: str
  split: str = "train"
  tfds_dir: str = ""
  encoder: "Encoder | None" = None
  image_range: tuple[float, float] = (-1.0, 1.0)
  mirror: bool = False
  num_classes: int = 0
  shards: int = 0
  part: tuple[int, int] = (0, 1)
  workers: int = 1
  on_error: Literal["skip", "stop"] = "stop"

  @property
  def folder(self) -> pathlib.Path:
    """The folder of the dataset's files."""
    return self.out / self.name / VERSION

  @property
  def stored_split(self) -> str:
    """The dataset's split: the source's, without a slice."""
    return self.split.partition("[")[0]

  @property
  def kind(self) -> Literal["images", "latents"]:
    return "images" if self.transform.form == "png" else "latents"

  def mine(self, count: int) -> range:
    """Returns the numbers of this process's shards, of `count` in all."""
    index, processes = self.part
    return range(index, count, processes)

  def read_index(self) -> Index:
    """Lists the source; raises ConfigError unless it fits the options."""
    _log.info("listing %s", self.source)
    index = open_source(self.source, self.split, self.tfds_dir).index()
    where, form = f"--source={self.source}", self.transform.form
    if index.latents and form != "latents":
      raise ConfigError(
        f"{where} holds latents; give --latents and no --autoencoder"
      )
    if index.latents and self.mirror:
      raise ConfigError(f"{where} holds latents, which cannot be mirrored")
    if form == "latents" and not index.latents:
      from scm_jax.interop import autoencoder  # imports jax

      raise ConfigError(
        f"{where} holds images, and latents of them need --autoencoder=FILE; "
        f"fetch {autoencoder.SOURCE}/resolve/main/{autoencoder.WEIGHTS}"
      )
    items, classes = len(index.items), len(index.classes)
    for name in index.classes:
      if len(name.splitlines()) > 1:  # it would become two names
        raise ConfigError(
          f"{where}: there is a line break in the class {name!r}; rename its "
          "folder"
        )
    if 0 < self.num_classes < classes:
      raise ConfigError(
        f"{where} has {classes} classes, more than "
        f"config.data.num_classes={self.num_classes}"
      )
    if index.folders and 0 < classes < self.num_classes:
      raise ConfigError(
        f"{where} has {classes} folders of classes, fewer than "
        f"config.data.num_classes={self.num_classes}, so that labels could "
        "mean other classes; give the folder that holds all of them, or "
        f"--config.data.num_classes={classes}"
      )
    if index.folders and (wrong := _misnumbered(index.classes)):
      _log.warning(
        "%s: the label of the folder %s is %d, because folders are sorted as "
        "texts; name them 00, 01, ... if their numbers are to be the labels",
        *(where, *wrong),
      )
    found = index.name, items, classes, index.ignored
    _log.info("%s: %d items, %d classes, %d other files", *found)
    return index

  def plan(self, index: Index) -> dict[str, Any]:
    """Returns what all processes must agree on for the bytes to be the same."""
    count = len(index.items) * (2 if self.mirror else 1)
    number = self.shards or min(SHARDS, math.ceil(count / SHARD_IMAGES))
    software = self.encoder.software if self.encoder else {}
    return {
      "name": self.name,
      "split": self.stored_split,
      "source": {
        "name": index.name,
        "items": len(index.items),
        "classes": len(index.classes),
        "sha256": index.fingerprint(),
        "other_files": index.ignored,
      },
      "preprocessing": self.preprocessing(),
      "software": {"pillow": PIL.__version__, **software},
      "shape": list(self.shape),
      "shards": min(number, count),
    }

  def preprocessing(self) -> dict[str, Any]:
    """Returns what decides the records, beside the images themselves."""
    how, encoder = self.transform, self.encoder
    content: dict[str, Any] = {
      "kind": self.kind,
      "size": how.size,
      "channels": how.channels,
      "crop": "ADM: halve by 2x2 means, resize bicubically, cut the middle",
      "convention": how.convention,
      "mirror": self.mirror,
    }
    if self.kind == "latents":
      content["image_range"] = list(self.image_range)
      content["autoencoder_sha256"] = encoder.checksum if encoder else None
    return content


def _misnumbered(classes: Sequence[str]) -> tuple[str, int] | None:
  """Returns a class that is a number, but not its label, and the label.

  None if there is none, or if not all classes are numbers.
  """
  if not all(name.isdecimal() for name in classes):
    return None
  pairs = ((name, label) for label, name in enumerate(classes))
  return next((pair for pair in pairs if int(pair[0]) != pair[1]), None)


def open_source(path: str, split: str = "train", tfds_dir: str = "") -> Source:
  """Opens a source, or raises UserError if there is none; see `Options`."""
  if path.startswith(TFDS):
    from scm_jax.preparing.tfds_source import TfdsSource  # slow to import

    return TfdsSource(path.removeprefix(TFDS), split, tfds_dir)
  if os.path.isdir(path):
    return file_source.FolderSource(path)
  archive, found, inside = path.partition(".zip/")
  archive += found.removesuffix("/")
  is_tar = archive.endswith((".tar", ".tgz", ".gz"))
  where = "FOLDER" if is_tar else path
  hint = IMAGENET.format(path=where) if _is_imagenet(path) else ""
  if not os.path.isfile(archive):
    raise UserError(f"--source={path}: there is no such folder or zip{hint}")
  if is_tar:
    raise ConfigError(
      f"--source={path} is a tar file; unpack it and name the folder{hint}"
    )
  return file_source.ZipSource(archive, inside)


def default_source(name: str) -> str:
  """Returns the source for a dataset of a config if the user names none."""
  return f"{TFDS}imagenet2012" if _is_imagenet(name) else f"{TFDS}{name}"


def _is_imagenet(text: str) -> bool:
  return "imagenet" in text.lower() or "ilsvrc" in text.lower()
