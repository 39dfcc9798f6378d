"""Candidates for a score: one sampler each, and a pass over its samples."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.evaluation.request import digest
from scm_jax.metrics import streaming
from scm_jax.metrics.accumulator import Collected
from scm_jax.metrics.partial import Arrays, Partial
from scm_jax.sampler import Sampler
from scm_jax.training.checkpoints import checksum

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Subject:
  """A sampler and all that decides its samples but their number and classes.

  Attributes:
    model: the sampler.
    steps: the number of steps.
    guidance: the guidance scale.
    about: the checkpoint's `config`, `step` and `ema`.
    path: the workdir's path.
  """

  model: Sampler
  steps: int
  guidance: float
  about: Mapping[str, Any]
  path: str

  @property
  def evaluations(self) -> int:
    """The network evaluations for one sample, guidance included."""
    return self.model.evaluations(self.steps, self.guidance)

  def settings(self) -> dict[str, Any]:
    """Returns how samples are drawn, for a report."""
    drawn = self.model.settings(self.steps, self.guidance)
    return {"ema": self.about["ema"]} | drawn

  def fingerprint(self) -> str:
    """Returns a hex digest of all that the samples depend on."""
    model, codec = self.model, self.model.codec
    second = model.guidance_network
    return digest(
      model.network.config,
      (second.config if second else None, model.kind),
      (model.t_mid, model.sigma_max, model.solver),
      (type(codec).__name__, codec.mean, codec.std, codec.sigma_d),
      getattr(codec, "image_range", None),
      checksum.of((model.weights, model.decoder)),
      (self.steps, self.guidance),
    )


class Picked:
  """A `streaming.Witness` that keeps some of the images, by their numbers."""

  def __init__(self, places: list[int]):
    """Stores which images to keep; -1 stands for none."""
    self._wanted, self._found = places, dict[int, np.ndarray]()

  def see(self, start: int, count: int, images: Any) -> None:
    """Keeps the wanted images of a batch."""
    for place in {0, *self._wanted}:  # the first image gives the shape
      if start <= place < start + count:
        self._found[place] = np.asarray(images[place - start])

  def state(self) -> Arrays:
    """Returns the images that were kept, by their numbers."""
    return {str(place): image for place, image in self._found.items()}

  def restore(self, state: Mapping[str, np.ndarray]) -> None:
    """Continues from an earlier `state`."""
    self._found = {int(place): image for place, image in state.items()}

  def join(self, states: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Adds what other processes kept."""
    for state in states:
      self._found |= {int(place): image for place, image in state.items()}

  def row(self) -> np.ndarray:
    """Returns the images [n, H, W, C], a white one for each -1."""
    white = np.full_like(self._found[0], 255)
    return np.stack([self._found.get(place, white) for place in self._wanted])


class Kept(Picked):
  """A `Picked` that also writes all images to a file, batch by batch."""

  def __init__(self, places: list[int], path: pathlib.Path, total: int):
    super().__init__(places)
    self._path, self._total = path, total
    self._partial = path.with_name(path.name + ".partial")
    self._file: np.memmap | None = None

  def see(self, start: int, count: int, images: Any) -> None:
    """Writes the images of a batch."""
    super().see(start, count, images)
    try:
      if self._file is None:
        shape = (self._total, *images.shape[1:])
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        mode = "r+" if start and self._partial.exists() else "w+"
        self._file = np.lib.format.open_memmap(
          self._partial, mode=mode, dtype=np.uint8, shape=shape
        )
      self._file[start : start + count] = np.asarray(images)[:count]
    except OSError as error:
      raise UserError(
        f"cannot write {self._path}: {error.strerror or error}"
      ) from error

  def state(self) -> Arrays:
    """Flushes the file, before the sums that count its images are saved."""
    if self._file is not None:
      self._file.flush()
    return super().state()

  def restore(self, state: Mapping[str, np.ndarray]) -> None:
    """Continues in the unfinished file.

    Raises:
      ValueError: the file is missing.
    """
    if not self._partial.exists():
      raise ValueError(f"{self._partial} is missing")
    super().restore(state)

  def finish(self) -> None:
    """Renames the finished file to its final name."""
    if self._file is not None:
      self._file.flush()
      self._file = None
    self._partial.replace(self._path)


def collect(
  subject: Subject,
  extraction: streaming.Extraction,
  labels: np.ndarray | None,
  num: int,
  *,
  seed: int,
  size: int,
  keep: int,
  witness: Picked | None = None,
  partial: Partial | None = None,
) -> dict[str, Collected]:
  """Draws `num` samples with `labels` [num], and collects their statistics.

  All batches have the same `size`, whatever `num` is, for one compilation. Each
  process draws its part of the samples, and of each batch.
  """
  size = extraction.share(size)
  model = subject.model.on(extraction.sharding)
  if labels is None:
    labels = np.full(num, model.network.config.num_classes, np.int32)

  def batches(samples: range) -> Iterator[Any]:
    for first in range(samples.start, samples.stop, size):
      index = np.arange(first, first + size)
      yield model.draw(
        index,
        labels[np.minimum(index, num - 1)],
        steps=subject.steps,
        seed=seed,
        guidance=subject.guidance,
      )

  return streaming.collect(
    extraction,
    batches,
    num,
    keep=keep,
    witness=witness,
    partial=partial,
    progress=streaming.Progress(num),
  )


def to_result(scores: Mapping[str, Any], row: np.ndarray) -> Arrays:
  """Packs a finished set of scores and its images into arrays."""
  return {"scores": np.asarray(json.dumps(scores)), "row": row}


def from_result(arrays: Arrays) -> tuple[dict[str, Any], np.ndarray]:
  """Unpacks the arrays of `to_result`."""
  return json.loads(str(arrays["scores"])), arrays["row"]
