"""Scores while a run trains: few images, to see where it goes.

They are biased upwards by the few images, and comparable with each other only;
their names say so. A report's scores come from `scm-jax evaluate`.
"""

import logging
import pathlib
import tempfile
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict

from scm_jax.errors import ConfigError
from scm_jax.evaluating import reference, scoring, subject
from scm_jax.evaluating.dataset import Dataset
from scm_jax.evaluating.request import DATA, Request, Way, digest
from scm_jax.metrics import extractors, frechet, kernel, sharing, streaming
from scm_jax.metrics.scores import Set
from scm_jax.model import Model
from scm_jax.training import best, distributed

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
    if distributed.is_main():
      best.put_back(epath.Path(folder))

  def __call__(self, model: Model) -> dict[str, float]:
    """Fréchet and kernel distances of `config.evaluate.num` samples.

    All processes have to call it: each draws a part, and gets all scores.

    Args:
      model: whose parameters are on this process's devices.

    Returns:
      Scores by name, the first feature space's Fréchet distance first.
    """
    config, asked = self._config, self._config.evaluate
    self._ready = self._ready or self._make(model)
    extraction, known = self._ready
    steps = 2 if model.consistency else config.sample.solver_steps
    drawn = subject.Subject(
      model, steps, config.sample.guidance, {"config": config}, ""
    )
    request = Request((), labels=DATA)
    collected = subject.collect(
      drawn,
      extraction,
      scoring.labels_of(request, known, asked.num, config.data.num_classes),
      asked.num,
      seed=0,
      size=min(config.sample.batch_size, asked.num),
      keep=asked.num,
    )
    scores = sharing.first(lambda: _score(collected, known.spaces))
    first, value = next(iter(scores.items()))
    _LOG.info("%s %.4g, of %d images alone", first, value, asked.num)
    return scores

  def _make(self, model: Model) -> _Ready:
    data = Dataset(self._config.data, "", model)
    extraction = streaming.Extraction(
      extractors.make(
        self._config.evaluate.features,
        subject.image_shape(model),
        data.everything,
        weights=self._weights,
        cache_dir=self._cache,
      )
    )
    size = self._config.sample.batch_size
    known = reference.of_dataset(
      Request(()), Way(), data, extraction, self._cache, size
    )
    return _Ready(extraction, known)


def _score(generated: Set, reference: Set) -> dict[str, float]:
  """Distances by name, in the order of the feature spaces."""
  scores: dict[str, float] = {}
  for name, mine in generated.items():
    theirs = reference[name]
    scores[f"{PREFIX}/fd_{name}"] = frechet.frechet_distance(
      mine.moments, theirs.moments, allow_few=True
    )
    if mine.kept is not None and theirs.kept is not None:
      found = kernel.kernel_distance(mine.kept, theirs.kept, subsets=10)
      scores[f"{PREFIX}/kid_{name}"] = found.mean
  return scores
