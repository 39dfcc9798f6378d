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
from scm_jax.evaluation.observers import LabelCollector
from scm_jax.evaluation.request import PassOptions, digest, file_digest
from scm_jax.metrics import (
  accumulator,
  array_file,
  multihost,
  reference_files,
  registry,
  streaming,
)
from scm_jax.metrics.frechet import MOMENTS
from scm_jax.metrics.pass_checkpoint import PassCheckpoint
from scm_jax.metrics.statistic import (
  KEPT_FEATURES,
  Arrays,
  ImageSet,
  Statistics,
)

_LOG = logging.getLogger(__name__)
_FORMAT = 1  # version of the cached files; part of their names

_DECODED = (
  "the reference is decoded latents, not real images: the errors of decoding "
  "are in the samples and in the reference alike, so distances come out "
  "smaller than to real images; give a file of real images' statistics, such "
  "as EDM2's img512.pkl, as --reference or config.evaluate.reference"
)


@dataclasses.dataclass(frozen=True)
class Reference:
  """What samples are compared with.

  Attributes:
    statistics: statistics of the images by feature extractor.
    metadata: facts for the report, of which `dataset` is its name and `images`
      the number of images, or None if unknown.
    labels: [N] int32 labels of the images, or None if unknown.
    row: [n, H, W, C] images for the report's picture, or None.
    classes: classes of the images in the row, or none.
    warnings: sentences on what distances to it do not say.
  """

  statistics: ImageSet
  metadata: Mapping[str, Any]
  labels: np.ndarray | None = None
  row: np.ndarray | None = None
  classes: tuple[int, ...] = ()
  warnings: tuple[str, ...] = ()


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
  """Returns the statistics of a file or a dataset.

  Args:
    name: a file, or `name` or `name:split` of a dataset.
    open_dataset: opens a dataset by its name; "" is the training data.
    extraction: the feature extractors.
    options: the options of a pass over images.
    cache: the folder of cached statistics.

  Raises:
    UserError: the file or dataset cannot be read or lacks what is needed, or
      the cache cannot be written.
  """
  if is_file(name):
    return of_file(name, extraction, options)
  return of_dataset(open_dataset(name), extraction, options, cache)


def of_file(
  path: str, extraction: streaming.Extraction, options: PassOptions
) -> Reference:
  """Returns the statistics in a file, and those of the images in it.

  Raises:
    UserError: the file cannot be used, or lacks some of the features.
  """
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
    if moments is not None:
      # ADM's files have the whole dataset's moments and some of its images.
      kept = {
        key: value
        for key, value in statistics.get(name, {}).items()
        if key == KEPT_FEATURES.name
      }
      statistics[name] = {MOMENTS.name: moments, **kept}
    if name not in statistics:
      raise UserError(
        f"the reference {path} has statistics of "
        f"{' and '.join(found.moments)} alone, not of {name}"
      )
    mean = statistics[name][MOMENTS.name].mean
    if mean.shape != (extractor.dim,):
      raise UserError(
        f"the reference {path} has statistics of {len(mean)} features, and "
        f"{name} has {extractor.dim}"
      )
  metadata: dict[str, Any] = {
    "dataset": path,
    "sha256": file_digest(path),
    # Beside moments, images are some of those that the moments are of.
    "images": None if found.moments or images is None else len(images),
  }
  return Reference(statistics, metadata, found.labels)


def of_dataset(
  data: ImageDataset,
  extraction: streaming.Extraction,
  options: PassOptions,
  cache: pathlib.Path,
) -> Reference:
  """Returns a dataset's statistics, from the cache if they are there.

  All processes must call it together, and get the same.

  Raises:
    UserError: the dataset cannot be read, or the cache cannot be written.
  """
  fingerprint = multihost.from_process_zero(data.fingerprint)
  by_class = bool(data.data.num_classes)
  marks, keep = extraction.fingerprints, options.keep
  seen_file = cache / f"reference_{_key(_FORMAT, fingerprint, by_class)}.npz"
  files = {
    name: cache
    / f"reference_{name}_{_key(_FORMAT, fingerprint, mark, keep)}.npz"
    for name, mark in marks.items()
  }
  statistics, seen = multihost.from_process_zero(
    lambda: _read_cache(extraction, files, seen_file)
  )
  missing = [name for name in marks if not seen or name not in statistics]
  if missing:
    _LOG.info("reference: %d images of %s", len(data), data.data.name)
    key = _key(fingerprint, *(marks[name] for name in missing), keep)
    folder = multihost.process_path(cache / f"reference_partial_{key}")
    checkpoint = PassCheckpoint(folder, options.save_every)
    new, seen = _run_pass(data, extraction.only(missing), options, checkpoint)
    written = {files[n]: accumulator.to_arrays(new[n]) for n in missing}
    written[seen_file] = seen
    multihost.from_process_zero(lambda: _write_cache(written))
    checkpoint.remove()
    statistics |= new
  else:
    _LOG.info("reference: statistics of %s are cached", data.data.name)
  metadata = {
    "dataset": data.data.name,
    "split": data.data.split,
    "images": len(data),
    "fingerprint": fingerprint,
  }
  return Reference(
    statistics={e.name: statistics[e.name] for e in extraction.extractors},
    metadata=metadata,
    labels=seen["labels"],
    row=seen["images"],
    classes=tuple(seen["keys"].tolist()) if by_class else (),
    warnings=(_DECODED,) if data.data.kind == "latents" else (),
  )


def _key(*parts: object) -> str:
  return digest(*parts)[:16]


def _read_cache(
  extraction: streaming.Extraction,
  files: Mapping[str, pathlib.Path],
  seen_file: pathlib.Path,
) -> tuple[dict[str, Statistics], Arrays]:
  """Returns the cached statistics, and the state of a `LabelCollector`.

  Extractors whose statistics are not cached, damaged or incomplete are left
  out; the state is empty if it is not cached.
  """
  found = {}
  for extractor in extraction.extractors:
    path = files[extractor.name]
    statistics = array_file.read_cached(path, accumulator.from_arrays)
    needed = registry.statistics(extractor.outputs).keys()
    if statistics and needed <= statistics.keys():
      found[extractor.name] = statistics
  return found, array_file.read_cached(seen_file, dict) or {}


def _write_cache(content: Mapping[pathlib.Path, Arrays]) -> None:
  for path, arrays in content.items():
    array_file.write_arrays(path, arrays)


def _run_pass(
  data: ImageDataset,
  extraction: streaming.Extraction,
  options: PassOptions,
  checkpoint: PassCheckpoint,
) -> tuple[ImageSet, Arrays]:
  """Returns a dataset's statistics, and its labels and some images."""
  collector = LabelCollector(by_class=bool(data.data.num_classes))
  size = extraction.process_batch_size(min(options.batch_size, len(data)))
  statistics = streaming.collect(
    extraction,
    data.batches(extraction, size, collector),
    len(data),
    keep=options.keep,
    observer=collector,
    checkpoint=checkpoint,
  )
  return statistics, collector.state()
