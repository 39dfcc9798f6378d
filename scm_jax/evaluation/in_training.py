"""Scores while a run trains: few images, to see where it goes.

Fréchet distances are biased upwards by the few images, and comparable with each
other only; their names say so. They are the less biased the less the samples
vary, so that the best average is chosen by the kernel distance, which is not.
A report's scores come from `scm-jax evaluate`.
"""

import logging
import pathlib
import tempfile
from typing import NamedTuple

from etils import epath
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
from scm_jax.model import Model
from scm_jax.training.checkpoints import best
from scm_jax.training.processes import startup

_LOG = logging.getLogger(__name__)
PREFIX = "in_training"  # of the scores' names


def _cache(folder: str) -> pathlib.Path:
  """Beside the run, or on this machine's disk for a run in a bucket."""
  if "://" not in folder:
    return pathlib.Path(folder) / "features"
  name = f"scm_jax_features_{digest(folder)[:12]}"
  return pathlib.Path(tempfile.gettempdir()) / name


class _Ready(NamedTuple):
  """What is made once, when the first model comes."""

  extraction: streaming.Extraction
  known: reference.Reference


class Evaluation:
  """Scores models of one run; see `training.best.Evaluate`."""

  def __init__(self, config: ConfigDict, folder: str):
    """Checks the request, and that the best so far is in its place.

    Args:
      config: of the run; `config.evaluate` says how.
      folder: its workdir, where statistics of the data are cached.

    Raises:
      ConfigError: features that there are not, or without weights.
      UserError: the workdir cannot be written.
    """
    self._config, self._cache = config, _cache(folder)
    asked = config.evaluate
    weights = dict(
      word.partition("=")[::2] for word in filter(None, asked.weights)
    )
    if asked.num < 2:
      raise ConfigError(f"config.evaluate.num is {asked.num}; give 2 or more")
    extractors.check(asked.features, weights)
    self._weights = weights
    self._ready: _Ready | None = None
    if startup.is_main():
      best.put_back(epath.Path(folder))

  def __call__(self, model: Model) -> dict[str, float]:
    """Fréchet and kernel distances of `config.evaluate.num` samples.

    All processes have to call it: each draws a part, and gets all scores.

    Args:
      model: whose parameters are on this process's devices.

    Returns:
      Scores by name. The first one is that of the first feature space which
      says what is best: its kernel distance, or if the reference has no single
      features its Fréchet distance.
    """
    config, asked = self._config, self._config.evaluate
    self._ready = self._ready or self._make(model)
    extraction, known = self._ready
    drawn = Candidate(model, model.steps, model.scale(), {"config": config}, "")
    seed = 0
    label = labels.draw(
      labels.RANDOM, known, asked.num, config.data.num_classes, seed
    )
    batch_size = min(config.sample.batch_size, asked.num)
    collected = candidate.collect(
      drawn,
      extraction,
      Samples(asked.num, label, seed),
      PassOptions(batch_size, keep=asked.num),
    )
    scores = multihost.from_process_zero(
      lambda: _score(collected, known.statistics)
    )
    first, value = next(iter(scores.items()))
    _LOG.info("%s %.4g, of %d images alone", first, value, asked.num)
    return scores

  def _make(self, model: Model) -> _Ready:
    config = self._config

    def open_dataset(name: str) -> ImageDataset:
      return ImageDataset(config.data, name, model)

    source = Source(
      candidate.image_shape(model),
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
        "the reference %s has no single features, so best/ is chosen by the "
        "Fréchet distance, which favours averages whose few samples vary less",
        config.evaluate.reference,
      )
    return _Ready(extraction, known)


def _score(generated: ImageSet, reference: ImageSet) -> dict[str, float]:
  """Returns distances by name, in the order of the feature extractors."""
  options = Options(allow_few=True, subsets=10)
  scores: dict[str, float] = {}
  for name, mine in generated.items():
    theirs = reference[name]
    for key, metric in (("kid", kernel.METRIC), ("fd", frechet.METRIC)):
      values, _ = metric.score(mine, theirs, options)
      if key in values:
        scores[f"{PREFIX}/{key}_{name}"] = values[key]
  return scores
