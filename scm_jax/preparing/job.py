"""What is to be made, and all that its bytes depend on."""

import dataclasses
import logging
import math
import pathlib
from typing import TYPE_CHECKING, Any, Literal

import PIL

from scm_jax.errors import ConfigError
from scm_jax.preparing import pixels, shards, sources, workers
from scm_jax.preparing.listing import Listing

if TYPE_CHECKING:
  from scm_jax.preparing.latents import Encoder

_log = logging.getLogger(__name__)

# By default there are at most so many files, of at least so many images.
SHARDS, SHARD_IMAGES = 256, 256


@dataclasses.dataclass(frozen=True)
class Job:
  """What is to be made, and by whom.

  Attributes:
    source: the images.
    out: folder of datasets, TFDS's `data_dir`.
    name: of the dataset.
    size: side of the images in pixels.
    channels: of the images, 3 or 1.
    kind: `images`, or `latents`, which a source may also hold already.
    image_range: black and white as the autoencoder sees or saw them.
    convention: see `pixels.decode`.
    mirror: stores each image's mirror image too.
    num_classes: the most that there may be; 0: any number.
    shards: number of files; 0 chooses.
    part: `(i, n)`: this process makes the shards k of `k % n == i`.
    workers: processes that read images.
    on_error: whether an unreadable image is left out or ends the run.
  """

  source: sources.Spec
  out: pathlib.Path
  name: str
  size: int
  channels: int = 3
  kind: Literal["images", "latents"] = "images"
  image_range: tuple[float, float] = (-1.0, 1.0)
  convention: pixels.Convention = "viewer"
  mirror: bool = False
  num_classes: int = 0
  shards: int = 0
  part: tuple[int, int] = (0, 1)
  workers: int = 1
  on_error: Literal["skip", "stop"] = "stop"

  @property
  def folder(self) -> pathlib.Path:
    """Of the dataset's files."""
    return self.out / self.name / shards.VERSION

  @property
  def split(self) -> str:
    """Of the dataset: the source's without a slice."""
    return self.source.split.partition("[")[0]

  def mine(self, shards: int) -> range:
    """Numbers of this process's shards."""
    index, count = self.part
    return range(index, shards, count)


def preprocessing(job: Job, encoder: "Encoder | None") -> dict[str, Any]:
  """What decides the records, beside the images themselves."""
  content: dict[str, Any] = {
    "kind": job.kind,
    "size": job.size,
    "channels": job.channels,
    "crop": "ADM: halve by 2x2 means, resize bicubically, cut the middle",
    "convention": job.convention,
    "mirror": job.mirror,
  }
  if job.kind == "latents":
    content["image_range"] = list(job.image_range)
    content["autoencoder_sha256"] = encoder.checksum if encoder else None
  return content


def list_source(job: Job, encoder: "Encoder | None") -> Listing:
  """The source's content.

  Raises:
    ConfigError: it is not what the job says.
    UserError: it cannot be read.
  """
  _log.info("listing %s", job.source.path)
  listing = sources.open_source(job.source).list()
  where = f"--source={job.source.path}"
  if listing.latents and (job.kind == "images" or encoder):
    raise ConfigError(
      f"{where} holds latents; give --latents and no --autoencoder"
    )
  if listing.latents and job.mirror:
    raise ConfigError(f"{where} holds latents, which have no mirror images")
  if job.kind == "latents" and not listing.latents and not encoder:
    from scm_jax.interop import autoencoder  # imports jax

    raise ConfigError(
      f"{where} holds images, and latents of them need --autoencoder=FILE; "
      f"fetch {autoencoder.SOURCE}/resolve/main/{autoencoder.WEIGHTS}"
    )
  if 0 < job.num_classes < len(listing.classes):
    raise ConfigError(
      f"{where} has {len(listing.classes)} classes, more than "
      f"config.data.num_classes={job.num_classes}"
    )
  _log.info(
    "%s: %d items, %d classes, %d other files",
    listing.name,
    len(listing.items),
    len(listing.classes),
    listing.ignored,
  )
  return listing


def make_plan(
  job: Job,
  encoder: "Encoder | None",
  listing: Listing,
) -> dict[str, Any]:
  """What all processes must agree on for the bytes to be the same."""
  count = len(listing.items) * (2 if job.mirror else 1)
  number = job.shards or min(SHARDS, math.ceil(count / SHARD_IMAGES))
  return {
    "name": job.name,
    "split": job.split,
    "source": {
      "name": listing.name,
      "items": len(listing.items),
      "classes": len(listing.classes),
      "sha256": listing.fingerprint(),
      "other_files": listing.ignored,
    },
    "preprocessing": preprocessing(job, encoder),
    "software": {
      "pillow": PIL.__version__,
      **(encoder.about if encoder else {}),
    },
    "shape": _shape(job, encoder),
    "shards": min(number, count),
  }


def _shape(job: Job, encoder: "Encoder | None") -> list[int]:
  """Of a record's array."""
  if job.kind == "images":
    return [job.size, job.size, job.channels]
  if encoder:
    side = job.size // encoder.factor
    return [side, side, encoder.channels]
  return workers.stored_shape(job.size)


def file_names(job: Job, count: int) -> list[str]:
  """The shards' names."""
  return [
    shards.file_name(job.name, job.split, shard, count)
    for shard in range(count)
  ]
