"""The registry of feature extractors."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from scm_jax import errors
from scm_jax.errors import ConfigError
from scm_jax.metrics import classifier_training, pretrained
from scm_jax.metrics.extractor import Extractor, Source
from scm_jax.metrics.pixels import PixelExtractor


@dataclasses.dataclass(frozen=True)
class Entry:
  """A feature extractor that can be asked for by its name.

  Attributes:
    make: makes the extractor.
    needs_weights: whether it is a published network, whose weights are read
      from a file that the user gives.
  """

  make: Callable[[Source], Extractor]
  needs_weights: bool = False


def _pixels(source: Source) -> Extractor:
  return PixelExtractor(source.image_shape)


def _published(name: str) -> Entry:
  def make(source: Source) -> Extractor:
    return pretrained.load(name, source.weights[name])

  return Entry(make, needs_weights=True)


EXTRACTORS: dict[str, Entry] = {
  "classifier": Entry(classifier_training.extractor),
  "pixels": Entry(_pixels),
  **{name: _published(name) for name in pretrained.NAMES},
}


def check(names: Sequence[str], weights: Mapping[str, str]) -> None:
  """Checks a choice of extractors and the weights given for them.

  Args:
    names: the extractors.
    weights: files of published networks, by extractor name.

  Raises:
    ConfigError: a name is unknown, or weights are missing or not needed.
  """
  if not names:
    raise ConfigError(f"no features; choose from {', '.join(EXTRACTORS)}")
  for name in (*names, *weights):
    if name not in EXTRACTORS:
      raise ConfigError(
        f"unknown features {name!r}; {errors.hint(name, EXTRACTORS)}"
      )
  for name in names:
    if EXTRACTORS[name].needs_weights and name not in weights:
      raise ConfigError(
        f"features {name!r} need the published network's weights: "
        f"--weights={name}=FILE"
      )
  for name in weights:
    if name not in names or not EXTRACTORS[name].needs_weights:
      raise ConfigError(
        f"--weights={name}=...: --features has no {name!r} to use them"
      )


def make(names: Sequence[str], source: Source) -> list[Extractor]:
  """Makes extractors, training a classifier on the dataset if need be.

  All processes must call it together, because one trains for all.

  Args:
    names: keys of `EXTRACTORS`.
    source: what they are made of.

  Returns:
    One extractor for each name, in order.

  Raises:
    ConfigError: a name is unknown, or weights are missing or not needed.
    UserError: weights cannot be read, or the dataset has too few labels.
  """
  check(names, source.weights)
  return [EXTRACTORS[name].make(source) for name in names]
