"""Feature extractors that are the same on every process."""

import os
from collections.abc import Mapping, Sequence

from scm_jax.metrics import extractors, sharing, streaming
from scm_jax.metrics.extractors import Labelled
from scm_jax.metrics.features import Extractor


def make(
  names: Sequence[str],
  image_shape: tuple[int, int, int],
  labelled: Labelled,
  *,
  weights: Mapping[str, str],
  cache_dir: str | os.PathLike[str],
) -> streaming.Extraction:
  """`extractors.make` for this process's devices.

  A classifier that two processes train is not the same to the last bit: the
  first one trains it, or reads it, for all.

  Raises:
    ConfigError, UserError: see `extractors.make`.
  """

  def one(name: str) -> Extractor:
    mine = {name: weights[name]} if name in weights else {}
    [made] = extractors.make(
      [name], image_shape, labelled, weights=mine, cache_dir=cache_dir
    )
    return made

  extractors.check(names, weights)
  return streaming.Extraction(
    [
      sharing.first(lambda name=name: one(name))
      if name == "classifier"
      else one(name)
      for name in names
    ]
  )
