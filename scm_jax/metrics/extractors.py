"""Feature extractors by their names."""

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from scm_jax import spelling
from scm_jax.errors import ConfigError
from scm_jax.metrics import classifier_cache, multihost, pretrained
from scm_jax.metrics.classifier import Settings
from scm_jax.metrics.features import (
  ClassifierExtractor,
  Extractor,
  PixelExtractor,
)

NAMES = ("classifier", "pixels", *pretrained.NAMES)

# All images, uint8 [N, H, W, C], and labels [N] of a dataset.
Labelled = Callable[[], tuple[np.ndarray, np.ndarray]]


def check(names: Sequence[str], weights: Mapping[str, str]) -> None:
  """Raises ConfigError for names that there are not, or without weights."""
  if not names:
    raise ConfigError(f"no features; choose from {', '.join(NAMES)}")
  for name in (*names, *weights):
    if name not in NAMES:
      raise ConfigError(
        f"unknown features {name!r}; {spelling.hint(name, NAMES)}"
      )
  for name in names:
    if name in pretrained.NAMES and name not in weights:
      raise ConfigError(
        f"features {name!r} need the published network's weights: "
        f"--weights={name}=FILE"
      )
  for name in weights:
    if name not in pretrained.NAMES or name not in names:
      raise ConfigError(
        f"--weights={name}=...: --features has no {name!r} to use them"
      )


def make(
  names: Sequence[str],
  image_shape: tuple[int, int, int],
  labelled: Labelled,
  *,
  weights: Mapping[str, str],
  cache_dir: str | os.PathLike[str],
  settings: Settings | None = None,
) -> list[Extractor]:
  """Makes extractors, training a dataset's classifier if need be.

  Several processes have to call it together: a classifier that two of them
  train is not the same to the last bit, so that the first one has it for all.

  Args:
    names: which ones, of `NAMES`.
    image_shape: (H, W, C) of the images to be scored.
    labelled: gives the dataset that a classifier is trained on.
    weights: files of the published networks, by name.
    cache_dir: where trained classifiers are kept.
    settings: how a classifier is trained.

  Returns:
    One extractor per name, in order.

  Raises:
    ConfigError: an unknown name, or one without weights.
    UserError: weights cannot be read, or the dataset has too few labels.
  """
  check(names, weights)
  made: list[Extractor] = []
  for name in names:
    if name == "pixels":
      made.append(PixelExtractor(image_shape))
    elif name == "classifier":
      trained = multihost.first(
        lambda: classifier_cache.load_or_train(*labelled(), cache_dir, settings)
      )
      made.append(ClassifierExtractor(trained))
    else:
      made.append(pretrained.load(name, weights[name]))
  return made
