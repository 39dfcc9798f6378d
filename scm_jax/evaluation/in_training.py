"""Scores of a run while it trains, from few images.

Few images bias Fréchet distances upwards, and the less so the less the samples
vary. Such distances can be compared with each other only, and the best EMA
weights are chosen by the kernel distance, which has no such bias. `scm-jax
evaluate` computes the scores of a report.
"""

import logging
import pathlib
import tempfile
from typing import NamedTuple

from ml_collections import ConfigDict

from scm_jax.errors import ConfigError
from scm_jax.evaluation import candidate, labels, reference
from scm_jax.evaluation.candidate import Candidate, Samples
from scm_jax.evaluation.dataset import ImageDataset
from scm_jax.evaluation.request import PassOptions, digest
from scm_jax.metrics import extractors, frechet, kernel, multihost, streaming
from scm_jax.metrics.extractor import Source
from scm_jax.metrics.metric import Options
from scm_jax.metrics.statistic import KEPT_FEATURES, ImageSet
from scm_jax.sampler import Sampler
from scm_jax.training.checkpoints import best
from scm_jax.training.processes import startup

_LOG = logging.getLogger(__name__)
PREFIX = "in_training"  # before each score's name


def _cache(folder: str) -> pathlib.Path:
  """Returns the cache's folder: in the workdir, or for a bucket a local one."""
  if "://" not in folder:
    return pathlib.Path(folder) / "features"
  name = f"scm_jax_features_{digest(folder)[:12]}"
  return pathlib.Path(tempfile.gettempdir()) / name


class _Ready(NamedTuple):
  """The feature extractors and the reference, which are made once.

  Attributes:
    extraction: the feature extractors on this process's devices.
    known: the statistics of the real images.
  """

  extraction: streaming.Extraction
  known: reference.Reference


class Evaluation:
  """A function that scores EMA weights of one run, on all processes.

  It is the `evaluate` of `training.loop.train`.
  """

  def __init__(self, config: ConfigDict, folder: str):
    """Checks the config, and ends an interrupted replacement of `best/`.

    Args:
      config: the run's config; `config.evaluate` says how to score.
      folder: the workdir, where statistics of the data are cached.

    Raises:
      ConfigError: features that do not exist, or whose weights are missing.
      UserError: the workdir cannot be written.
    """
    self._config, self._cache = config, _cache(folder)
    options = config.evaluate
    weights = dict(
      word.partition("=")[::2] for word in filter(None, options.weights)
    )
    if options.num < 2:
      raise ConfigError(
        f"config.evaluate.num is {options.num}; it must be at least 2"
      )
    extractors.check(options.features, weights)
    self._weights = weights
    self._ready: _Ready | None = None
    if startup.is_main():
      best.recover(folder)

  def __call__(self, model: Sampler) -> dict[str, float]:
    """Returns Fréchet and kernel distances of `config.evaluate.num` samples.

    All processes have to call it: each draws a part, and gets all scores.

    Args:
      model: the sampler, its parameters on this process's devices.

    Returns:
      Scores by name. The first one decides which weights are best: the kernel
      distance of the first features, or their Fréchet distance if the reference
      is a mean and a covariance alone.
    """
    config, num = self._config, self._config.evaluate.num
    self._ready = self._ready or self._make(model)
    extraction, known = self._ready
    drawn = Candidate(
      model, model.steps, model.guidance_scale(), {"config": config}, ""
    )
    classes, seed = config.data.num_classes, 0
    label = labels.draw(labels.RANDOM, known, num, classes, seed)
    collected = candidate.collect(
      drawn,
      extraction,
      Samples(num, label, seed),
      PassOptions(min(config.sample.batch_size, num), keep=num),
    )
    scores = multihost.from_process_zero(
      lambda: _score(collected, known.statistics)
    )
    first, value = next(iter(scores.items()))
    _LOG.info("%s %.4g, from %d images only", first, value, num)
    return scores

  def _make(self, model: Sampler) -> _Ready:
    config = self._config

    def open_dataset(name: str) -> ImageDataset:
      return ImageDataset(config.data, name, model)

    source = Source(
      model.image_shape,
      lambda: open_dataset("").everything(),
      self._weights,
      self._cache,
    )
    extraction = streaming.Extraction(
      extractors.make(config.evaluate.features, source)
    )
    known = reference.find(
      config.evaluate.reference,
      open_dataset,
      extraction,
      PassOptions(config.sample.batch_size),
      self._cache,
    )
    for line in known.warnings:
      _LOG.warning(line)
    main = config.evaluate.features[0]
    if KEPT_FEATURES.name not in known.statistics[main]:
      _LOG.warning(
        "the reference %s is a mean and a covariance alone, so best/ is chosen "
        "by the Fréchet distance, which favours samples that vary less",
        config.evaluate.reference,
      )
    return _Ready(extraction, known)


def _score(generated: ImageSet, reference: ImageSet) -> dict[str, float]:
  """Returns the distances by name, in the order of the features."""
  options = Options(allow_few=True, subsets=10)
  scores: dict[str, float] = {}
  for name, mine in generated.items():
    for key, metric in (("kid", kernel.METRIC), ("fd", frechet.METRIC)):
      values, _ = metric.score(mine, reference[name], options)
      if key in values:
        scores[f"{PREFIX}/{key}_{name}"] = values[key]
  return scores
