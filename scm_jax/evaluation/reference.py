"""What samples are compared with: a dataset's statistics, or a file's.

A dataset's statistics are computed in one pass and cached on disk, one file for
each feature extractor, under a fingerprint of the data and of the extractor. Of
several processes, process 0 reads and writes the files for all.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.evaluation.dataset import ImageDataset
from scm_jax.evaluation.request import PassOptions, digest, file_digest
from scm_jax.metrics import (
  accumulator,
  array_file,
  multihost,
  reference_files,
  registry,
  streaming,
)
from scm_jax.metrics.array_file import PassCheckpoint
from scm_jax.metrics.frechet import MOMENTS
from scm_jax.metrics.metric import KEPT_FEATURES, Arrays, ImageSet, Statistics
from scm_jax.metrics.spatial import SPATIAL

_LOG = logging.getLogger(__name__)
FORMAT = 2  # version of statistics; part of the names of cached files

_DECODED = (
  "the reference is decoded latents, not real images: the errors of decoding "
  "are in the samples and in the reference alike, so distances come out "
  "smaller than to real images; give a file of real images' statistics, such "
  "as EDM2's img512.pkl, as --reference or config.evaluate.reference"
)


@dataclasses.dataclass(frozen=True)
class Reference:
  """What samples are compared with.

  The metadata are facts for the report, of which `dataset` is its name and
  `images` the number of images, or None if unknown.
  """

  statistics: ImageSet
  metadata: Mapping[str, Any]
  labels: np.ndarray | None = None  # [N] int32 labels of all images, if known
  row: np.ndarray | None = None  # [n, H, W, C] images for the report's picture
  classes: tuple[int, ...] = ()  # classes of the images in the row
  warnings: tuple[str, ...] = ()  # sentences on what distances do not say


def is_file(reference: str) -> bool:
  """Returns whether a reference is a file, and not a dataset's name."""
  return reference.endswith(reference_files.SUFFIXES)


def find(
  name: str,
  open_dataset: Callable[[str], ImageDataset],
  extraction: streaming.Extraction,
  options: PassOptions,
  cache: pathlib.Path,
) -> Reference:
  """Returns the statistics of a file or a dataset, on all processes together.

  The name is a file, or `name` or `name:split` of a dataset, as `open_dataset`
  takes it; "" is the training data. Statistics are cached in a folder.

  Raises:
    UserError: the file or dataset cannot be read or lacks what is needed, or
      the cache cannot be written.
  """
  if is_file(name):
    found = _of_file(name, extraction, options)
  else:
    found = _of_dataset(open_dataset(name), extraction, options, cache)
  for line in found.warnings:
    _LOG.warning(line)
  return found


def _of_file(
  path: str, extraction: streaming.Extraction, options: PassOptions
) -> Reference:
  """Returns the statistics in a file, and those of the images in it."""
  found = reference_files.read(path)
  statistics: dict[str, Statistics] = {}
  images = found.images
  if images is not None:
    statistics |= streaming.collect_images(
      images, extraction, size=options.batch_size, keep=options.keep
    )
  for extractor in extraction.extractors:
    name = extractor.name
    # Whatever the convention: `inception-pytorch-fid` is Inception too.
    moments = found.moments.get(name.partition("-")[0])
    if moments:
      # ADM's files have the whole dataset's moments and some of its images.
      mine = statistics.get(name, {})
      kept = {key: mine[key] for key in mine if key == KEPT_FEATURES.name}
      if found.spatial and SPATIAL.output in extractor.outputs:
        kept[SPATIAL.name] = found.spatial
      statistics[name] = {MOMENTS.name: moments, **kept}
    if name not in statistics:
      raise UserError(
        f"the reference {path} has statistics of "
        f"{' and '.join(found.moments)} alone, not of {name}"
      )
    count = len(statistics[name][MOMENTS.name].mean)
    if count != extractor.dim:
      raise UserError(
        f"the reference {path} has statistics of {count} features, and "
        f"{name} has {extractor.dim}"
      )
  # Beside moments, images are some of those that the moments are of.
  count = None if found.moments or images is None else len(images)
  metadata = {"dataset": path, "sha256": file_digest(path), "images": count}
  return Reference(statistics, metadata, found.labels)


def _of_dataset(
  data: ImageDataset,
  extraction: streaming.Extraction,
  options: PassOptions,
  cache: pathlib.Path,
) -> Reference:
  """Returns a dataset's statistics, from the cache if they are there."""
  config, keep, marks = data.data, options.keep, extraction.fingerprints
  by_class = bool(config.num_classes)
  fingerprint = multihost.from_process_zero(data.fingerprint)
  key = FORMAT, fingerprint
  seen_file = cache / f"{_stem('reference', *key, by_class)}.npz"
  files = {
    name: cache / f"{_stem(f'reference_{name}', *key, mark, keep)}.npz"
    for name, mark in marks.items()
  }

  def read_cache() -> tuple[dict[str, Statistics], Arrays]:
    statistics = {}
    for e in extraction.extractors:
      found = array_file.read_cached(files[e.name], accumulator.from_arrays)
      if found and registry.statistics(e.outputs).keys() <= found.keys():
        statistics[e.name] = found
    return statistics, array_file.read_cached(seen_file, dict) or {}

  def write_cache() -> None:
    for name, found in new.items():
      array_file.write_arrays(files[name], accumulator.to_arrays(found))
    array_file.write_arrays(seen_file, seen)

  statistics, seen = multihost.from_process_zero(read_cache)
  missing = [
    e for e in extraction.extractors if not seen or e.name not in statistics
  ]
  if missing:
    _LOG.info("reference: %d images of %s", len(data), config.name)
    wanted = sorted(registry.statistics())
    asked = fingerprint, *(marks[e.name] for e in missing), keep, *wanted
    folder = cache / _stem("reference_partial", *asked)
    checkpoint = PassCheckpoint(folder, options.save_every)
    left = streaming.Extraction(missing)
    new, seen = data.collect(left, options, checkpoint)
    multihost.from_process_zero(write_cache)
    checkpoint.remove()
    statistics |= new
  else:
    _LOG.info("reference: statistics of %s are cached", config.name)
  return Reference(
    statistics={name: statistics[name] for name in marks},
    metadata={
      "dataset": config.name,
      "split": config.split,
      "images": len(data),
      "fingerprint": fingerprint,
    },
    labels=seen["labels"],
    row=seen["images"],
    classes=tuple(seen["keys"].tolist()) if by_class else (),
    warnings=(_DECODED,) if config.kind == "latents" else (),
  )


def _stem(name: str, *parts: object) -> str:
  """Returns a file's name, which tells its content."""
  return f"{name}_{digest(*parts)[:16]}"
