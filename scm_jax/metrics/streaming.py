"""One pass over images, drawn or read: features on all devices, sums here.

Images are cut over the devices and every device computes the features of its
own part (`shard_map`), so that nothing is exchanged and a sample's features
depend on neither the batch size nor the number of devices, but for rounding.
While the devices work on one batch, the host adds up the one before. Several
processes have a part of the samples each, and put their sums together.
"""

import functools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scm_jax.image_grid import check_images
from scm_jax.metrics import multihost
from scm_jax.metrics.accumulator import (
  KEPT,
  Accumulator,
  Arrays,
  Collected,
  merge,
)
from scm_jax.metrics.features import Extractor, fingerprint
from scm_jax.metrics.partial import DAMAGED, Partial

_LOG = logging.getLogger(__name__)

# batches(samples): uint8 images [B, H, W, C] of these samples, in order; what
# is beyond the last one is ignored.
Batches = Callable[[range], Iterable[Any]]


class Extraction:
  """Several extractors as one program over devices.

  Attributes:
    extractors: what it computes.
    devices: how many share a batch; they divide its size.
    sharding: of a batch over them.
    whole: of parameters, on each of them.
  """

  def __init__(
    self, extractors: Sequence[Extractor], devices: Sequence[Any] | None = None
  ):
    self.extractors = tuple(extractors)
    self._given = devices
    given = jax.local_devices() if devices is None else devices
    mesh = Mesh(np.asarray(given), ("data",))
    self.devices = len(given)
    self.sharding = NamedSharding(mesh, PartitionSpec("data"))
    self.whole = NamedSharding(mesh, PartitionSpec())
    params = [extractor.params for extractor in self.extractors]
    self._params = jax.device_put(params, self.whole)

    def apply(params, images):
      return [
        extractor.apply(mine, images)
        for extractor, mine in zip(self.extractors, params, strict=True)
      ]

    specs = PartitionSpec(), PartitionSpec("data")
    self._program = jax.jit(
      jax.shard_map(
        apply, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False
      )
    )

  def __call__(self, images: Any) -> list[dict[str, jax.Array]]:
    """What each extractor's `apply` gives, of uint8 images [B, H, W, C]."""
    return self._program(self._params, jax.device_put(images, self.sharding))

  @functools.cached_property
  def marks(self) -> dict[str, str]:
    """Fingerprints by the extractors' names."""
    return {e.name: fingerprint(e) for e in self.extractors}

  def only(self, names: Collection[str]) -> "Extraction":
    """The same with some of its extractors."""
    mine = [e for e in self.extractors if e.name in names]
    return Extraction(mine, self._given)

  def share(self, size: int) -> int:
    """How many images of a batch are this process's.

    The least number of which its devices and the others' make up `size`.
    """
    return -(-multihost.portion(size) // self.devices) * self.devices


class Witness(Protocol):
  """Sees the images of a pass, too; its state is saved with the sums."""

  def see(self, start: int, count: int, images: Any) -> None:
    """The samples `start` and following: the first `count` of the images."""
    ...

  def state(self) -> Arrays:
    """Arrays by name."""
    ...

  def restore(self, state: Mapping[str, np.ndarray]) -> None:
    """Goes on from there; raises ValueError or KeyError if it cannot."""
    ...

  def join(self, states: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Has seen what all processes saw, each its part, in their order."""
    ...


def collect(
  extraction: Extraction,
  batches: Batches,
  total: int,
  *,
  keep: int = KEPT,
  witness: Witness | None = None,
  partial: Partial | None = None,
  progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Collected]:
  """Statistics of `total` images in every feature space, in one pass.

  Several processes, which all have to call it, take a part of the samples each.

  Args:
    extraction: the extractors.
    batches: gives the images of some samples; see `Batches`.
    total: number of samples, of all processes together.
    keep: of how many samples features are kept, likewise.
    witness: sees every image of this process, and in the end what others saw.
    partial: where this process's sums are saved on the way, and gone on from.
    progress: is told the number of samples that this process has done.

  Returns:
    Statistics by the extractors' names, the same on every process.

  Raises:
    UserError: features are not finite, or a file cannot be written.
  """

  def mine() -> dict[str, Collected]:
    return _collect(
      extraction, batches, total, keep, witness, partial, progress
    )

  parts = multihost.agree(mine)
  found = {name: merge(multihost.every(part)) for name, part in parts.items()}
  if witness:
    witness.join(multihost.every(witness.state()))
  return found


def _collect(
  extraction, batches, total, keep, witness, partial, progress
) -> dict[str, Collected]:
  """Statistics of this process's part."""
  mine = multihost.span(total)
  accumulators, start = _begin(extraction, total, keep, witness, partial)

  def add(first, images, outputs):
    count = min(len(images), mine.stop - first)
    if witness:
      witness.see(first, count, images)
    for accumulator, output in zip(accumulators.values(), outputs, strict=True):
      arrays = {k: np.asarray(v)[:count] for k, v in output.items()}
      accumulator.add(arrays["features"], arrays.get("logits"))
    progress(first + count - mine.start)

  number, waiting, first = 0, None, start
  for images in batches(range(start, mine.stop)) if start < mine.stop else ():
    outputs = extraction(images)  # dispatched; the batch before is added up
    if waiting:
      add(*waiting)
      number += 1
      if partial and number % partial.every == 0:
        partial.save(accumulators, witness.state() if witness else {})
    waiting, first = (first, images, outputs), first + len(images)
  if waiting:
    add(*waiting)
  return {name: a.result() for name, a in accumulators.items()}


def _begin(extraction, total, keep, witness, partial):
  """Accumulators, and the sample that they go on from."""
  mine = multihost.span(total)

  def fresh():
    return {
      e.name: Accumulator(e.dim, total, keep, mine)
      for e in extraction.extractors
    }

  accumulators = fresh()
  if not partial or not partial.exists():
    return accumulators, mine.start
  try:
    count, seen = partial.restore(accumulators)
    if witness:
      witness.restore(seen)
  except DAMAGED as error:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    _LOG.warning("beginning anew: %s: %s", partial.folder, reason)
    partial.remove()
    return fresh(), mine.start
  start = mine.start + count
  _LOG.info("going on from sample %d of %d", start, total)
  return accumulators, start


def collect_images(
  images: np.ndarray,
  extraction: Extraction,
  *,
  size: int = 256,
  keep: int = KEPT,
) -> dict[str, Collected]:
  """`collect` of images in memory, uint8 [N, H, W, C], `size` at once.

  Raises:
    UserError: no uint8 images, or of a shape that an extractor does not take.
  """
  images = np.asarray(images)
  check_images(images)
  size = extraction.share(min(size, len(images)))

  def batches(samples):
    for first in range(samples.start, samples.stop, size):
      yield fill_up(images[first : first + size], size)

  return collect(extraction, batches, len(images), keep=keep)


def fill_up(images: np.ndarray, size: int) -> np.ndarray:
  """[size, ...]: the last image repeated, so that one program serves all."""
  missing = size - len(images)
  if not missing:
    return images
  return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])


class Progress:
  """Lines with the rate and the time left, every half a minute.

  Of several processes, each speaks of its own part of `total` images.
  """

  def __init__(self, total: int, seconds: float = 30.0):
    self._total, self._every = len(multihost.span(total)), seconds
    self._start = self._said = time.monotonic()
    self._first: int | None = None

  def __call__(self, count: int) -> None:
    now = time.monotonic()
    if self._first is None:  # its batch was compiled, too
      self._first, self._start = count, now
    if now - self._said < self._every or count == self._first:
      return
    self._said = now
    rate = (count - self._first) / (now - self._start)
    left = int((self._total - count) / rate)
    _LOG.info(
      "%d of %d images, %.0f a second, ETA %d:%02d",
      *(count, self._total, rate, left // 60, left % 60),
    )
