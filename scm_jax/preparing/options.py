"""Options of `scm-jax prepare`, and the plan of a dataset that follows."""

import dataclasses
import logging
import math
import os
import pathlib
from typing import TYPE_CHECKING, Any, Literal

import PIL

from scm_jax.errors import ConfigError, UserError
from scm_jax.preparing import file_source, transform
from scm_jax.preparing.index import Index, Source

if TYPE_CHECKING:
  from scm_jax.preparing.latents import Encoder

_log = logging.getLogger(__name__)

TFDS = "tfds:"
# By default there are at most so many files, of at least so many images.
SHARDS, SHARD_IMAGES = 256, 256
VERSION = "1.0.0"  # TFDS's, of every dataset

IMAGENET = (
  "ImageNet must be downloaded by hand (ILSVRC2012_img_train.tar, 138 GB) and "
  "unpacked into {path}/n01440764/*.JPEG and so on; docs/data.md has the "
  "commands"
)


@dataclasses.dataclass(frozen=True)
class SourceSpec:
  """The name of a source; picklable, so that each worker opens it anew.

  Attributes:
    path: a folder, a zip, a folder in a zip (`FILE.zip/FOLDER`) or `tfds:NAME`.
    split: the split of a TFDS dataset.
    tfds_dir: the folder of TFDS datasets and of their downloads.
  """

  path: str
  split: str = "train"
  tfds_dir: str = ""


@dataclasses.dataclass(frozen=True)
class Options:
  """The dataset to make, and this process's part in it.

  Attributes:
    source: the images.
    out: the folder of datasets, TFDS's `data_dir`.
    name: the dataset's name.
    size: the side of the images in pixels.
    channels: the images' channels, 3 or 1.
    kind: `images`, or `latents`, which a source may also hold already.
    encoder: the autoencoder's encoder, for latents of images.
    image_range: the values that the autoencoder takes for black and white.
    convention: how image files are read; see `transform.decode`.
    mirror: whether each image's mirror image is stored too.
    num_classes: the greatest number of classes allowed; 0 allows any.
    shards: the number of files; 0 chooses one.
    part: `(i, n)`: this process makes the shards k with `k % n == i`.
    workers: the number of processes that read images.
    on_error: whether an unreadable image is left out or ends the run.
  """

  source: SourceSpec
  out: pathlib.Path
  name: str
  size: int
  channels: int = 3
  kind: Literal["images", "latents"] = "images"
  encoder: "Encoder | None" = None
  image_range: tuple[float, float] = (-1.0, 1.0)
  convention: transform.Convention = "viewer"
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
  def split(self) -> str:
    """The dataset's split: the source's, without a slice."""
    return self.source.split.partition("[")[0]

  @property
  def transform(self) -> transform.Transform:
    """The transform that the workers apply to an image."""
    form = "pixels" if self.encoder else "latents"
    form = "png" if self.kind == "images" else form
    return transform.Transform(form, self.size, self.channels, self.convention)

  def mine(self, count: int) -> range:
    """Returns the numbers of this process's shards, of `count` in all."""
    index, processes = self.part
    return range(index, count, processes)

  def file_names(self, count: int) -> list[str]:
    """Returns TFDS's names of the files of `count` shards."""
    stem = f"{self.name}-{self.split}.array_record"
    return [f"{stem}-{k:05d}-of-{count:05d}" for k in range(count)]


def open_source(spec: SourceSpec) -> Source:
  """Opens a source.

  Raises:
    ConfigError: the source is a tar file.
    UserError: there is no such file or folder.
  """
  path = spec.path
  if path.startswith(TFDS):
    # Imported here, because workers that read files do without it.
    from scm_jax.preparing import tfds_source

    root = spec.tfds_dir or os.environ.get("TFDS_DATA_DIR", "")
    root = os.path.expanduser(root or "~/tensorflow_datasets")
    return tfds_source.TfdsSource(path.removeprefix(TFDS), spec.split, root)
  if os.path.isdir(path):
    return file_source.FolderSource(path)
  archive, found, inside = path.partition(".zip/")
  archive += ".zip" if found else ""
  if os.path.isfile(archive):
    if archive.endswith((".tar", ".tgz", ".gz")):
      raise ConfigError(
        f"--source={path} is a tar file; unpack it and name the folder"
        f"{_imagenet_hint(path, 'FOLDER')}"
      )
    return file_source.ZipSource(archive, inside)
  raise UserError(
    f"--source={path}: there is no such folder or zip"
    f"{_imagenet_hint(path, path)}"
  )


def default_source(name: str) -> str:
  """Returns the source for a dataset of a config if the user names none."""
  return f"{TFDS}imagenet2012" if _is_imagenet(name) else f"{TFDS}{name}"


def _imagenet_hint(name: str, path: str) -> str:
  return f"; {IMAGENET.format(path=path)}" if _is_imagenet(name) else ""


def _is_imagenet(text: str) -> bool:
  return "imagenet" in text.lower() or "ilsvrc" in text.lower()


def read_index(options: Options) -> Index:
  """Lists the source.

  Raises:
    ConfigError: the source is not what the options say.
    UserError: the source cannot be read.
  """
  _log.info("listing %s", options.source.path)
  index = open_source(options.source).index()
  where = f"--source={options.source.path}"
  if index.latents and (options.kind == "images" or options.encoder):
    raise ConfigError(
      f"{where} holds latents; give --latents and no --autoencoder"
    )
  if index.latents and options.mirror:
    raise ConfigError(f"{where} holds latents, which cannot be mirrored")
  if options.kind == "latents" and not index.latents and not options.encoder:
    from scm_jax.interop import autoencoder  # imports jax

    raise ConfigError(
      f"{where} holds images, and latents of them need --autoencoder=FILE; "
      f"fetch {autoencoder.SOURCE}/resolve/main/{autoencoder.WEIGHTS}"
    )
  if 0 < options.num_classes < len(index.classes):
    raise ConfigError(
      f"{where} has {len(index.classes)} classes, more than "
      f"config.data.num_classes={options.num_classes}"
    )
  _log.info(
    "%s: %d items, %d classes, %d other files",
    index.name,
    len(index.items),
    len(index.classes),
    index.ignored,
  )
  return index


def make_plan(options: Options, index: Index) -> dict[str, Any]:
  """Returns what all processes must agree on for the bytes to be the same."""
  encoder = options.encoder
  count = len(index.items) * (2 if options.mirror else 1)
  number = options.shards or min(SHARDS, math.ceil(count / SHARD_IMAGES))
  return {
    "name": options.name,
    "split": options.split,
    "source": {
      "name": index.name,
      "items": len(index.items),
      "classes": len(index.classes),
      "sha256": index.fingerprint(),
      "other_files": index.ignored,
    },
    "preprocessing": preprocessing(options),
    "software": {
      "pillow": PIL.__version__,
      **(encoder.software if encoder else {}),
    },
    "shape": _record_shape(options),
    "shards": min(number, count),
  }


def preprocessing(options: Options) -> dict[str, Any]:
  """Returns what decides the records, beside the images themselves."""
  encoder = options.encoder
  content: dict[str, Any] = {
    "kind": options.kind,
    "size": options.size,
    "channels": options.channels,
    "crop": "ADM: halve by 2x2 means, resize bicubically, cut the middle",
    "convention": options.convention,
    "mirror": options.mirror,
  }
  if options.kind == "latents":
    content["image_range"] = list(options.image_range)
    content["autoencoder_sha256"] = encoder.checksum if encoder else None
  return content


def _record_shape(options: Options) -> list[int]:
  if options.kind == "images":
    return [options.size, options.size, options.channels]
  if options.encoder:
    side = options.size // options.encoder.factor
    return [side, side, options.encoder.channels]
  return transform.stored_shape(options.size)
