"""Scores of a run while it trains, from few images.

Few images bias Fréchet distances upwards, and the less so the less the samples
vary, so the best EMA weights are chosen by the kernel distance. `scm-jax
evaluate` computes the scores of a report.
"""

import functools
import logging
import pathlib
import tempfile

from etils import epath
from ml_collections import ConfigDict

from scm_jax import errors, files
from scm_jax.errors import ConfigError
from scm_jax.evaluation import labels, reference
from scm_jax.evaluation.candidate import DrawnImages, Samples, collect
from scm_jax.evaluation.dataset import ImageDataset
from scm_jax.evaluation.request import PassOptions, digest
from scm_jax.metrics import extractors, multihost, registry, streaming
from scm_jax.metrics.extractor import JUDGES, Source
from scm_jax.metrics.metric import KEPT_FEATURES, ImageSet, Options
from scm_jax.sampler import Sampler
from scm_jax.training.checkpoints import best
from scm_jax.training.processes import startup

_LOG = logging.getLogger(__name__)
PREFIX = "in_training"  # before each score's name
_Ready = tuple[streaming.Extraction, reference.Reference]


def _cache(folder: str) -> pathlib.Path:
  """Returns the cache's folder: in the workdir, or for a bucket a local one."""
  if not files.is_remote(folder):
    return pathlib.Path(folder) / "features"
  name = f"scm_jax_features_{digest(folder)[:12]}"
  return pathlib.Path(tempfile.gettempdir()) / name


class Evaluation:
  """A function that scores EMA weights of one run, on all processes.

  It is the `evaluate` of `training.loop.train`.
  """

  def __init__(self, config: ConfigDict, folder: str):
    """Checks `config.evaluate`, and mends the workdir's `best/` if need be.

    Raises:
      ConfigError: features that do not exist, or whose weights are missing.
      UserError: the workdir cannot be written, or there is no such reference.
    """
    self._config, self._cache = config, _cache(folder)
    self._ready: _Ready | None = None
    options = config.evaluate
    self._weights = dict(
      word.partition("=")[::2] for word in filter(None, options.weights)
    )
    if options.num < 2:
      raise ConfigError(
        f"config.evaluate.num is {options.num}; it must be at least 2"
      )
    extractors.check(options.features, self._weights)
    if judges := JUDGES.intersection(options.features):
      raise ConfigError(
        f"config.evaluate.features has {min(judges)!r}, by which nothing is to "
        "be chosen, and the best weights in training are chosen by features; "
        "leave it out, and give it to scm-jax evaluate"
      )
    if reference.is_file(options.reference):
      with errors.reading(options.reference):
        epath.Path(options.reference).stat()
    elif options.reference:  # opened here, so that a typo is found at once
      ImageDataset(config.data, None, options.reference)
    if startup.is_main():
      best.recover(folder)

  def __call__(self, model: Sampler) -> dict[str, float]:
    """Returns Fréchet and kernel distances of `config.evaluate.num` samples.

    All processes have to call it: each draws a part, and gets all scores. The
    first one decides which weights are best: the kernel distance of the first
    features, or their Fréchet distance if the reference is a mean and a
    covariance alone.
    """
    config, num = self._config, self._config.evaluate.num
    self._ready = self._ready or self._make(model)
    extraction, known = self._ready
    scale, classes = model.guidance_scale(), config.data.num_classes
    drawn = DrawnImages(model, model.steps, scale, {"config": config}, "")
    label = labels.draw(labels.RANDOM, known, num, classes, seed=0)
    samples = Samples(num, label, seed=0)
    passes = PassOptions(min(config.sample.batch_size, num), keep=num)
    collected = collect(drawn, extraction, samples, passes)
    score = lambda: _score(collected, known.statistics)
    scores = multihost.from_process_zero(score)
    first, value = next(iter(scores.items()))
    _LOG.info("%s %.4g, from %d images only", first, value, num)
    return scores

  def _make(self, model: Sampler) -> _Ready:
    config, options = self._config, self._config.evaluate
    open_dataset = functools.partial(ImageDataset, config.data, model)
    labelled = lambda: open_dataset().everything()
    source = Source(model.image_shape, labelled, self._weights, self._cache)
    extraction = streaming.Extraction(extractors.make(options.features, source))
    passes = PassOptions(config.sample.batch_size)
    known = reference.find(
      options.reference, open_dataset, extraction, passes, self._cache
    )
    if KEPT_FEATURES.name not in known.statistics[options.features[0]]:
      _LOG.warning(
        "the reference %s is a mean and a covariance alone, so best/ is chosen "
        "by the Fréchet distance, which favours samples that vary less",
        options.reference,
      )
    return extraction, known


def _score(generated: ImageSet, reference: ImageSet) -> dict[str, float]:
  """Returns the distances by name, in the order of the features."""
  options = Options(allow_few=True, subsets=10)
  scores: dict[str, float] = {}
  for name, mine in generated.items():
    for key in ("kid", "fd"):
      metric = registry.by_key()[key]
      values, _ = metric.score(mine, reference[name], options)
      if key in values:
        scores[f"{PREFIX}/{key}_{name}"] = values[key]
  return scores
