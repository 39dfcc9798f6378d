"""What is scored: a sampler's images, or images from elsewhere."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from scm_jax.evaluation.pictures import Pictures
from scm_jax.evaluation.request import PassOptions, digest
from scm_jax.metrics import streaming
from scm_jax.metrics.array_file import PassCheckpoint
from scm_jax.metrics.metric import ImageSet
from scm_jax.objectives import OBJECTIVES
from scm_jax.sampler import Sampler
from scm_jax.sampler_kinds import Guidance
from scm_jax.training import evaluations, resolve
from scm_jax.training.checkpoints import checksum


class Samples(NamedTuple):
  """How many samples to draw, their classes [num] if any, and their seed."""

  num: int
  labels: np.ndarray | None
  seed: int

  def labels_for(self, model: Sampler) -> np.ndarray:
    """Returns the classes [num], or a network's "no label" for each sample."""
    if self.labels is not None:
      return self.labels
    return np.full(self.num, model.network.config.num_classes, np.int32)


class Candidate(Protocol):
  """What gives the images of a run of the report.

  It has a `name` for the report, the number of its data's classes (0 if there
  are none), and the digest of everything that its images depend on.
  `own_labels` are the classes [num] of its images where it decides them, or
  None where they are chosen for it. `settings` tell how they are drawn and
  `facts` what they are, by the keys of the report. `batches` yields images
  [size, H, W, C] of a part of the samples, on the extraction's devices; those
  beyond the last sample are ignored.
  """

  @property
  def name(self) -> str: ...

  @property
  def num_classes(self) -> int: ...

  def own_labels(self, num: int) -> np.ndarray | None: ...

  def settings(self) -> dict[str, Any]: ...

  def facts(self) -> dict[str, Any]: ...

  def fingerprint(self) -> str: ...

  def batches(
    self,
    part: range,
    size: int,
    samples: Samples,
    extraction: streaming.Extraction,
  ) -> Iterator[Any]: ...


def collect(
  candidate: Candidate,
  extraction: streaming.Extraction,
  samples: Samples,
  options: PassOptions,
  observer: streaming.Observer | None = None,
  checkpoint: PassCheckpoint | None = None,
) -> ImageSet:
  """Computes the statistics of a candidate's images in one pass.

  All batches have the same size, so that one program draws them; see
  `streaming.collect`.
  """
  size = extraction.process_batch_size(options.batch_size)
  return streaming.collect(
    extraction,
    lambda part: candidate.batches(part, size, samples, extraction),
    samples.num,
    keep=options.keep,
    observer=observer,
    checkpoint=checkpoint,
  )


@dataclasses.dataclass(frozen=True)
class DrawnImages:
  """A sampler, and how many steps and how much guidance it draws with."""

  model: Sampler
  steps: int
  guidance: Guidance
  # `config`, `step` and `ema` of the checkpoint; of a weak `guide`, too
  metadata: Mapping[str, Any]
  path: str  # the workdir

  @property
  def evaluations(self) -> int:
    """Returns the network evaluations for one sample, guidance included."""
    return self.model.evaluations(self.steps, self.guidance)

  @property
  def num_classes(self) -> int:
    return self.metadata["config"].data.num_classes

  @property
  def name(self) -> str:
    """Returns a name such as "sCD, 2 steps"."""
    label, nfe = OBJECTIVES[self.metadata["config"].run].label, self.evaluations
    if not self.model.rules.few_steps and nfe > 1:
      return f"{label}, {nfe} NFE"
    return f"{label}, {self.steps} step{'s' if self.steps > 1 else ''}"

  def own_labels(self, num: int) -> np.ndarray | None:
    del num  # it draws the classes that it is asked for

  def facts(self) -> dict[str, Any]:
    config, step = self.metadata["config"], self.metadata["step"]
    facts = {
      "objective": config.run,
      "steps": self.steps,
      "nfe": self.evaluations,
      "params": self.model.parameters,
      "workdir": self.path,
      "training_step": step,
    }
    if config.data.name:  # others were imported, and trained elsewhere
      run = resolve.resolve(config)
      facts["evaluations_per_sample"] = evaluations.per_sample(run)
      facts["training_evaluations"] = evaluations.total(run, step)
    if "guide" in self.metadata:
      facts["guide"] = self.metadata["guide"]
    return facts

  def settings(self) -> dict[str, Any]:
    drawn = self.model.settings(self.steps, self.guidance)
    return {"ema": self.metadata["ema"]} | drawn

  def fingerprint(self) -> str:
    model, codec = self.model, self.model.codec
    guide = model.guidance_network
    return digest(
      model.network.config,
      (guide.config if guide else None, model.kind),
      (model.t_mid, model.sigma_max, model.solver),
      *([model.gamma] if "gamma" in model.rules.settings else []),
      *([model.times] if model.times else []),
      *([model.guidance_interval] if model.guidance_interval else []),
      *([("channels", n)] if (n := model.guidance_channels) else []),
      (type(codec).__name__, codec.mean, codec.std, codec.sigma_d),
      getattr(codec, "image_range", None),
      checksum.of((model.weights, model.decoder)),
      (self.steps, self.guidance),
    )

  def batches(
    self,
    part: range,
    size: int,
    samples: Samples,
    extraction: streaming.Extraction,
  ) -> Iterator[Any]:
    model = self.model.on(extraction.sharding)
    labels = samples.labels_for(model)
    for first in range(part.start, part.stop, size):
      index = np.arange(first, first + size)
      yield model.draw(
        index,
        labels[np.minimum(index, samples.num - 1)],
        steps=self.steps,
        seed=samples.seed,
        guidance=self.guidance,
      )


@dataclasses.dataclass(frozen=True)
class GivenImages:
  """Images of a folder or file; of fewer than all, evenly spaced ones."""

  pictures: Pictures
  num_classes = 0

  @property
  def name(self) -> str:
    return os.path.basename(os.path.abspath(self.pictures.path))

  def own_labels(self, num: int) -> np.ndarray | None:
    del num  # nothing says what the images show

  def settings(self) -> dict[str, Any]:
    return {}

  def facts(self) -> dict[str, Any]:
    unknown = dict.fromkeys(("steps", "nfe", "params"))
    return {"objective": "images", **unknown, "images": self.pictures.path}

  def fingerprint(self) -> str:
    return self.pictures.digest

  def batches(
    self,
    part: range,
    size: int,
    samples: Samples,
    extraction: streaming.Extraction,
  ) -> Iterator[Any]:
    del extraction
    chosen = np.arange(samples.num) * self.pictures.count // samples.num
    index = chosen[part.start : part.stop].tolist()
    for images in self.pictures.batches(index, size):
      yield streaming.pad_batch(images, size)
