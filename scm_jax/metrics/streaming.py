"""One pass over images, drawn or read: features on devices, statistics here.

A batch is cut over the devices, and every device computes the features of its
own part (`shard_map`). So nothing is exchanged, and a sample's features depend
on neither the batch size nor the number of devices, except for rounding. While
the devices work on one batch, the host summarises the one before. Several
processes have a part of the samples each, and merge their statistics.
"""

import functools
import logging
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from scm_jax.image_grid import check_images
from scm_jax.metrics import multihost
from scm_jax.metrics.accumulator import KEPT, Accumulator, merge
from scm_jax.metrics.extractor import Extractor, fingerprint
from scm_jax.metrics.pass_checkpoint import PassCheckpoint
from scm_jax.metrics.statistic import Arrays, ImageSet

_LOG = logging.getLogger(__name__)
_PROGRESS = {"desc": "images", "delay": 30.0, "mininterval": 30.0}  # of tqdm

# batches(samples): uint8 images [B, H, W, C] of these samples, in order; images
# beyond the last sample are ignored.
Batches = Callable[[range], Iterable[Any]]


class Extraction:
  """Several extractors as one compiled program over devices.

  Attributes:
    extractors: the extractors.
    devices: number of devices, which divides a batch's size.
    sharding: the sharding of a batch.
    replicated: the sharding of parameters, which every device holds.
  """

  def __init__(self, extractors: Sequence[Extractor]):
    """Places the extractors' parameters on all devices of this process."""
    self.extractors = tuple(extractors)
    devices = jax.local_devices()
    mesh = Mesh(np.asarray(devices), ("data",))
    self.devices = len(devices)
    self.sharding = NamedSharding(mesh, PartitionSpec("data"))
    self.replicated = NamedSharding(mesh, PartitionSpec())
    params = {e.name: e.params for e in self.extractors}
    self._params = jax.device_put(params, self.replicated)

    def apply(params, images):
      return {e.name: e.apply(params[e.name], images) for e in self.extractors}

    specs = PartitionSpec(), PartitionSpec("data")
    self._program = jax.jit(
      jax.shard_map(
        apply, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False
      )
    )

  def __call__(self, images: Any) -> dict[str, dict[str, jax.Array]]:
    """Returns the outputs for uint8 images [B, H, W, C], by extractor name."""
    return self._program(self._params, jax.device_put(images, self.sharding))

  @functools.cached_property
  def fingerprints(self) -> dict[str, str]:
    """Returns the extractors' fingerprints by name."""
    return {e.name: fingerprint(e) for e in self.extractors}

  def only(self, names: Collection[str]) -> "Extraction":
    """Returns an extraction of some of these extractors."""
    return Extraction([e for e in self.extractors if e.name in names])

  def process_batch_size(self, size: int) -> int:
    """Returns how many images of a batch of all processes are this one's.

    It is the least multiple of the number of devices with which the processes
    together have at least `size`.
    """
    each = -(-size // jax.process_count())
    return -(-each // self.devices) * self.devices


class Observer(Protocol):
  """Sees the images of a pass; its state is saved with the statistics."""

  def see(self, start: int, count: int, images: Any) -> None:
    """Sees the samples from `start` on: the first `count` of the images."""
    ...

  def state(self) -> Arrays:
    """Returns its state as arrays by name."""
    ...

  def restore(self, state: Mapping[str, np.ndarray]) -> None:
    """Continues from a state; raises an error if it cannot."""
    ...

  def join(self, states: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Takes the states of all processes, in the order of their samples."""
    ...


def collect(
  extraction: Extraction,
  batches: Batches,
  total: int,
  *,
  keep: int = KEPT,
  observer: Observer | None = None,
  checkpoint: PassCheckpoint | None = None,
) -> ImageSet:
  """Computes the statistics of `total` images in one pass.

  Several processes, which all must call it, take a part of the samples each.

  Args:
    extraction: the extractors.
    batches: gives the images of some samples; see `Batches`.
    total: number of samples, of all processes together.
    keep: number of samples whose features are kept, of all processes together.
    observer: sees every image of this process, and in the end what the
      observers of the other processes saw.
    checkpoint: where this process's statistics are saved on the way, and what
      it resumes from.

  Returns:
    Statistics by extractor name, the same on every process.

  Raises:
    UserError: features are not finite, or a file cannot be written.
  """
  samples = multihost.process_samples(total)

  def begin() -> dict[str, Accumulator]:
    names = [extractor.name for extractor in extraction.extractors]
    return {name: Accumulator(total, keep, samples) for name in names}

  def collect_own() -> ImageSet:
    accumulators = begin()
    if checkpoint and not checkpoint.restore(accumulators, observer):
      accumulators = begin()
    done = next(iter(accumulators.values())).count
    if done:
      _LOG.info("resuming after %d of %d samples", done, len(samples))
    left = range(samples.start + done, samples.stop)
    with tqdm(total=len(samples), initial=done, **_PROGRESS) as progress:
      for number, batch in enumerate(_dispatch(extraction, batches, left), 1):
        first, images, outputs = batch
        count = min(len(images), samples.stop - first)
        if observer:
          observer.see(first, count, images)
        for name, output in outputs.items():
          arrays = {key: np.asarray(x)[:count] for key, x in output.items()}
          accumulators[name].add(arrays)
        progress.update(count)
        if checkpoint and number % checkpoint.every == 0:
          checkpoint.save(accumulators, observer.state() if observer else {})
    return {name: a.result() for name, a in accumulators.items()}

  own = multihost.raise_on_any(collect_own)
  found = {
    name: merge(multihost.all_gather_objects(part))
    for name, part in own.items()
  }
  if observer:
    observer.join(multihost.all_gather_objects(observer.state()))
  return found


def _dispatch(
  extraction: Extraction, batches: Batches, samples: range
) -> Iterator[tuple[int, Any, dict[str, Any]]]:
  """Yields each batch when the devices are at work on the one after it.

  Yields:
    The batch's first sample, its images, and the extractors' outputs by name.
  """
  waiting, first = None, samples.start
  for images in batches(samples) if samples else ():
    outputs = extraction(images)
    if waiting:
      yield waiting
    waiting, first = (first, images, outputs), first + len(images)
  if waiting:
    yield waiting


def collect_images(
  images: np.ndarray,
  extraction: Extraction,
  *,
  size: int = 256,
  keep: int = KEPT,
) -> ImageSet:
  """Computes the statistics of images in memory.

  Args:
    images: uint8 [N, H, W, C].
    extraction: the extractors.
    size: number of images in a batch.
    keep: number of images whose features are kept.

  Raises:
    UserError: the images are not uint8, or an extractor does not take images
      of their shape.
  """
  images = np.asarray(images)
  check_images(images)
  size = extraction.process_batch_size(min(size, len(images)))

  def batches(samples):
    for first in range(samples.start, samples.stop, size):
      yield pad_batch(images[first : first + size], size)

  return collect(extraction, batches, len(images), keep=keep)


def pad_batch(images: np.ndarray, size: int) -> np.ndarray:
  """Repeats the last image, up to [size, ...], so that one program serves."""
  missing = size - len(images)
  if not missing:
    return images
  return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
