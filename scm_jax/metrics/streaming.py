"""One pass over images, drawn or read: features on devices, statistics here.

Every device computes the features of its own part of a batch (`shard_map`), so
that nothing is exchanged, while the host summarises the batch before. Several
processes have a part of the samples each, and merge their statistics.
"""

import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from scm_jax import compilation
from scm_jax.image_grid import check_images
from scm_jax.metrics import multihost
from scm_jax.metrics.accumulator import KEPT, Accumulator, merge
from scm_jax.metrics.array_file import PassCheckpoint
from scm_jax.metrics.extractor import Extractor
from scm_jax.metrics.metric import Arrays, ImageSet

_LOG = logging.getLogger(__name__)
_PROGRESS = {"desc": "images", "delay": 30.0, "mininterval": 30.0}  # of tqdm

# batches(samples): uint8 images [B, H, W, C] of these samples, in order; images
# beyond the last sample are ignored.
Batches = Callable[[range], Iterable[Any]]


class Extraction:
  """Several extractors as one compiled program over devices.

  The number of `devices` divides the size of a batch, which has the `sharding`;
  every device holds what is `replicated`.
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
      return {
        e.name: e.checked(e.apply(params[e.name], images), len(images))
        for e in self.extractors
      }

    specs = PartitionSpec(), PartitionSpec("data")
    self._program = jax.jit(
      jax.shard_map(
        apply, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False
      ),
      compiler_options=compilation.options(devices[0].platform),
    )

  def __call__(self, images: Any) -> dict[str, dict[str, jax.Array]]:
    """Returns the outputs for uint8 images [B, H, W, C], by extractor name."""
    return self._program(self._params, jax.device_put(images, self.sharding))

  @functools.cached_property
  def fingerprints(self) -> dict[str, str]:
    """Returns the extractors' fingerprints by name."""
    return {e.name: e.fingerprint() for e in self.extractors}

  def process_batch_size(self, size: int) -> int:
    """Returns how many of all processes' `size` images a batch has here.

    It is rounded up to a multiple of the number of devices.
    """
    each = -(-size // jax.process_count())
    return -(-each // self.devices) * self.devices


class Observer(Protocol):
  """An object that sees the images of a pass.

  `see` is shown the samples from `start` on: the first `count` of the images.
  `state`, arrays by name, is saved with the statistics. `join` takes the states
  of parts of the samples, in order, in place of its own: a saved one to begin
  with, and all processes' in the end. It raises an error if it cannot continue.
  """

  def see(self, start: int, count: int, images: Any) -> None: ...

  def state(self) -> Arrays: ...

  def join(self, states: Iterable[Mapping[str, np.ndarray]]) -> None: ...


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

  Several processes, which all must call it, take a part of the images each, and
  all return the same. The features of `keep` images are kept. The observer sees
  the images of this process, whose statistics are saved to the checkpoint on
  the way; the pass resumes from what is there.

  Raises:
    UserError: features are not finite, or a file cannot be written.
  """
  samples = multihost.process_samples(total)

  def collect_own() -> ImageSet:
    accumulator = Accumulator(total, keep, samples)
    if checkpoint and not checkpoint.restore(accumulator, observer):
      accumulator = Accumulator(total, keep, samples)
    done = accumulator.count
    if done:
      _LOG.info("resuming after %d of %d samples", done, len(samples))
    left = range(samples.start + done, samples.stop)
    outputs = ((images, extraction(images)) for images in batches(left))
    # A batch is summarised when the devices are at work on the one after it.
    pairs: Any = itertools.pairwise(itertools.chain(outputs, [None]))
    with tqdm(total=len(samples), initial=done, **_PROGRESS) as progress:
      for number, ((images, output), _) in enumerate(pairs, 1):
        first = samples.start + accumulator.count
        count = min(len(images), samples.stop - first)
        if observer:
          observer.see(first, count, images)
        accumulator.add(output, count)
        progress.update(count)
        if checkpoint and number % checkpoint.every == 0:
          checkpoint.save(accumulator, observer.state() if observer else {})
    return accumulator.result()

  own = multihost.raise_on_any(collect_own)
  found = {
    extractor.name: functools.reduce(
      merge, multihost.all_gather_objects(own.get(extractor.name, {}))
    )
    for extractor in extraction.extractors
  }
  if observer:
    observer.join(multihost.all_gather_objects(observer.state()))
  return found


def collect_images(
  images: np.ndarray,
  extraction: Extraction,
  *,
  size: int = 256,
  keep: int = KEPT,
) -> ImageSet:
  """Computes the statistics of images in memory, uint8 [N, H, W, C].

  Batches have `size` images; the features of `keep` images are kept.

  Raises:
    UserError: an extractor does not take images of their type or shape.
  """
  check_images(images)
  size = extraction.process_batch_size(min(size, len(images)))

  def batches(samples):
    for first in range(samples.start, samples.stop, size):
      yield pad_batch(images[first : first + size], size)

  return collect(extraction, batches, len(images), keep=keep)


def pad_batch(images: np.ndarray, size: int) -> np.ndarray:
  """Repeats the last image, up to [size, ...], so that one program serves."""
  sides = ((0, size - len(images)), *((0, 0),) * (images.ndim - 1))
  return np.pad(images, sides, mode="edge")
