"""Candidates for a score: one sampler each, and a pass over its samples."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from scm_jax.evaluation.request import PassOptions, digest
from scm_jax.metrics import streaming
from scm_jax.metrics.array_file import PassCheckpoint
from scm_jax.metrics.metric import ImageSet
from scm_jax.sampler import Sampler
from scm_jax.training.checkpoints import checksum


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A sampler, and how many steps and how much guidance it draws with."""

  model: Sampler
  steps: int
  guidance: float
  metadata: Mapping[str, Any]  # `config`, `step` and `ema` of the checkpoint
  path: str  # the workdir

  @property
  def evaluations(self) -> int:
    """Returns the network evaluations for one sample, guidance included."""
    return self.model.evaluations(self.steps, self.guidance)

  @property
  def num_classes(self) -> int:
    """Returns the number of classes of its data; 0 if there are none."""
    return self.metadata["config"].data.num_classes

  def settings(self) -> dict[str, Any]:
    """Returns how it draws samples, for a report."""
    drawn = self.model.settings(self.steps, self.guidance)
    return {"ema": self.metadata["ema"]} | drawn

  def fingerprint(self) -> str:
    """Returns a hex digest of everything that its samples depend on."""
    model, codec = self.model, self.model.codec
    guide = model.guidance_network
    return digest(
      model.network.config,
      (guide.config if guide else None, model.kind),
      (model.t_mid, model.sigma_max, model.solver),
      (type(codec).__name__, codec.mean, codec.std, codec.sigma_d),
      getattr(codec, "image_range", None),
      checksum.of((model.weights, model.decoder)),
      (self.steps, self.guidance),
    )


class Samples(NamedTuple):
  """How many samples to draw, their classes [num] if any, and their seed."""

  num: int
  labels: np.ndarray | None
  seed: int


def collect(
  candidate: Candidate,
  extraction: streaming.Extraction,
  samples: Samples,
  options: PassOptions,
  observer: streaming.Observer | None = None,
  checkpoint: PassCheckpoint | None = None,
) -> ImageSet:
  """Draws samples, of which each process draws a part, and their statistics.

  All batches have the same size, so that one program draws them; see
  `streaming.collect`.
  """
  size = extraction.process_batch_size(options.batch_size)
  model = candidate.model.on(extraction.sharding)
  labels = samples.labels
  if labels is None:
    no_label = model.network.config.num_classes
    labels = np.full(samples.num, no_label, np.int32)

  def batches(part: range) -> Iterator[Any]:
    for first in range(part.start, part.stop, size):
      index = np.arange(first, first + size)
      yield model.draw(
        index,
        labels[np.minimum(index, samples.num - 1)],
        steps=candidate.steps,
        seed=samples.seed,
        guidance=candidate.guidance,
      )

  return streaming.collect(
    extraction,
    batches,
    samples.num,
    keep=options.keep,
    observer=observer,
    checkpoint=checkpoint,
  )
