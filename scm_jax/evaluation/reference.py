"""What samples are compared with: a dataset's statistics, or a file's.

A dataset's statistics are computed in one pass and kept on disk, one file for
each feature space, under a fingerprint of the data and of the extractor. Of
several processes, the first one reads and writes the files for all.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.evaluation.dataset import Dataset, Sight
from scm_jax.evaluation.request import Request, Way, digest, file_digest
from scm_jax.metrics import accumulator, multihost, reference_files, streaming
from scm_jax.metrics.accumulator import Collected
from scm_jax.metrics.partial import (
  DAMAGED,
  Arrays,
  Partial,
  read_arrays,
  write_arrays,
)

_LOG = logging.getLogger(__name__)
_FORMAT = 1  # of the cached files; part of their names


@dataclasses.dataclass(frozen=True)
class Reference:
  """What samples are compared with.

  Attributes:
    spaces: statistics by feature space.
    about: what the report says of it.
    labels: [N] of its images, or None if unknown.
    row: ten images for the report's picture, or none.
    classes: those of the row, or none.
    warnings: lines on what distances to it do not say.
  """

  spaces: Mapping[str, Collected]
  about: Mapping[str, Any]
  labels: np.ndarray | None = None
  row: np.ndarray | None = None
  classes: tuple[int, ...] = ()
  warnings: tuple[str, ...] = ()


def is_file(reference: str) -> bool:
  """Whether a reference is a file, not a dataset's name."""
  return reference.endswith(reference_files.SUFFIXES)


_DECODED = (
  "the reference is decoded latents, not real images: what decoding gets wrong "
  "is in the samples and in the reference alike, so that distances come out "
  "smaller than to real images; give a file of real images' statistics, such "
  "as EDM2's img512.pkl, as --reference or config.evaluate.reference"
)


def find(
  request: Request,
  way: Way,
  dataset: Callable[[str], Dataset],
  extraction: streaming.Extraction,
  folder: pathlib.Path,
  size: int,
) -> Reference:
  """The statistics of what a request names, a file or a dataset.

  Args:
    request: its `reference` is not None.
    way: how the work is done.
    dataset: opens one by its name; "" is the training data.
    extraction: of the features.
    folder: of cached statistics.
    size: images at once.

  Raises:
    UserError: see `of_file` and `of_dataset`.
  """
  name = request.reference or ""
  if is_file(name):
    return of_file(request, extraction, size)
  return of_dataset(request, way, dataset(name), extraction, folder, size)


def of_file(
  request: Request, extraction: streaming.Extraction, size: int
) -> Reference:
  """The statistics in a file, and those of the images in it.

  Raises:
    UserError: it cannot be used, or has not the features that are asked for.
  """
  file = request.reference or ""
  found = reference_files.read(file)
  spaces: dict[str, Collected] = {}
  images = found.images
  if images is not None:
    spaces = streaming.collect_images(
      images, extraction, size=size, keep=request.keep
    )
  for extractor in extraction.extractors:
    name = extractor.name
    # Whatever the convention: `inception-pytorch-fid` is Inception too.
    moments = found.moments.get(name.partition("-")[0])
    if moments is not None:
      # ADM's files have the whole dataset's moments and some of its images.
      kept = spaces[name].kept if name in spaces else None
      spaces[name] = Collected(moments, kept)
    mine = spaces.get(name)
    if mine is None:
      raise UserError(
        f"the reference {file} has statistics of "
        f"{' and '.join(found.moments)} alone, not of {name}"
      )
    if mine.moments.mean.shape != (extractor.dim,):
      raise UserError(
        f"the reference {file} has statistics of "
        f"{len(mine.moments.mean)} features, and {name} has {extractor.dim}"
      )
  about: dict[str, Any] = {
    "dataset": file,
    "sha256": file_digest(file),
    # Beside moments, images are some of those that the moments are of.
    "images": None if found.moments or images is None else len(images),
  }
  return Reference(spaces, about, found.labels)


def of_dataset(
  request: Request,
  way: Way,
  data: Dataset,
  extraction: streaming.Extraction,
  folder: pathlib.Path,
  size: int,
) -> Reference:
  """A dataset's statistics, from the cache if they are there.

  All processes have to call it, and get the same.

  Raises:
    UserError: the dataset cannot be read, or the cache not be written.
  """
  mark, marks = multihost.first(data.fingerprint), extraction.marks
  classes = bool(data.data.num_classes)
  seen_path = folder / f"reference_{digest(_FORMAT, mark, classes)[:16]}.npz"
  paths = {
    name: folder / f"reference_{name}_"
    f"{digest(_FORMAT, mark, marks[name], request.keep)[:16]}.npz"
    for name in marks
  }
  spaces, seen = multihost.first(lambda: _cached(paths, seen_path))
  missing = [name for name in paths if name not in spaces]
  if missing or seen is None:
    _LOG.info("reference: %d images of %s", len(data), data.data.name)
    asked = digest(mark, *(marks[name] for name in missing), request.keep)
    partial = Partial(
      multihost.own(folder / f"reference_partial_{asked[:16]}"), way.save_every
    )
    new, seen = _pass(
      data, extraction.only(missing), size, request.keep, partial
    )
    kept = {paths[name]: _arrays(new[name]) for name in missing}
    multihost.first(lambda: _write(kept | {seen_path: seen}))
    partial.remove()
    spaces |= new
  else:
    _LOG.info("reference: statistics of %s are cached", data.data.name)
  about = {
    "dataset": data.data.name,
    "split": data.data.split,
    "images": len(data),
    "fingerprint": mark,
  }
  keys = tuple(seen["keys"].tolist()) if classes else ()
  ordered = {e.name: spaces[e.name] for e in extraction.extractors}
  warnings = (_DECODED,) if data.data.kind == "latents" else ()
  return Reference(
    ordered, about, seen["labels"], seen["images"], keys, warnings
  )


def _cached(
  paths: Mapping[str, pathlib.Path], seen_path: pathlib.Path
) -> tuple[dict[str, Collected], Arrays | None]:
  """What there is of the statistics by feature space, and of the sight."""
  found = {name: _read(path, _collected) for name, path in paths.items()}
  spaces = {name: space for name, space in found.items() if space}
  return spaces, _read(seen_path, lambda arrays: arrays)


def _write(kept: Mapping[pathlib.Path, Arrays]) -> None:
  for path, arrays in kept.items():
    write_arrays(path, arrays)


def _pass(
  data: Dataset,
  extraction: streaming.Extraction,
  size: int,
  keep: int,
  partial: Partial,
) -> tuple[dict[str, Collected], Arrays]:
  sight = Sight(bool(data.data.num_classes))
  size = extraction.share(min(size, len(data)))
  collected = streaming.collect(
    extraction,
    data.batches(extraction, size, sight),
    len(data),
    keep=keep,
    witness=sight,
    partial=partial,
    progress=streaming.Progress(len(data)),
  )
  return collected, sight.state()


def _arrays(collected: Collected) -> Arrays:
  moments: Any = collected.moments
  arrays = accumulator.moments_state(moments)
  if collected.kept is not None:
    arrays["kept"] = collected.kept
  if collected.classes is not None:
    arrays |= accumulator.classes_state(collected.classes)
  return arrays


def _collected(arrays: Arrays) -> Collected:
  moments = accumulator.moments_of(arrays)
  classes = accumulator.classes_of(arrays, moments.n)
  return Collected(moments, arrays["kept"], classes)


def _read(path: pathlib.Path, make: Callable[[Arrays], Any]) -> Any:
  """What a cache file holds, or None; a damaged one is replaced."""
  if not path.exists():
    return None
  try:
    return make(read_arrays(path))
  except DAMAGED as error:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    _LOG.warning("computing again: %s: %s", path, reason)
    return None
