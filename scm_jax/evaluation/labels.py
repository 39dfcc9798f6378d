"""Classes of the samples that are scored: three ways to choose them.

A Fréchet distance of few samples is too large, by how much the samples'
covariance happens to be off. Classes that are as frequent in the samples as in
the data take a part of that noise away, and with it a part of the distance: an
advantage over published figures, whose samples have random classes. So `random`
is the default; the others are for comparisons of one's own.
"""

from collections.abc import Callable

import numpy as np

from scm_jax import spelling
from scm_jax.errors import ConfigError
from scm_jax.evaluation.reference import Reference

RANDOM = "random"
_STREAM = 1  # tells the labels' random numbers from others of the same seed


def _random(
  reference: Reference, num: int, classes: int, seed: int
) -> np.ndarray:
  """Label i is a function of (seed, i): EDM2's protocol."""
  bits = np.random.PCG64(np.random.SeedSequence((seed, _STREAM)))
  places = np.random.Generator(bits).random(num)
  known = np.arange(classes) if reference.labels is None else reference.labels
  return known[np.int64(places * len(known))]


def _balanced(
  reference: Reference, num: int, classes: int, seed: int
) -> np.ndarray:
  del reference, seed
  return np.arange(num) % classes


def _data(
  reference: Reference, num: int, classes: int, seed: int
) -> np.ndarray:
  """The reference's own; of a part of it, each class has its share."""
  del classes, seed
  known = reference.labels
  if known is None:
    raise ConfigError(
      f"the reference {reference.about.get('dataset')} does not say how often "
      "each class occurs; give --labels=random or --labels=balanced"
    )
  whole, rest = divmod(num, len(known))
  # In random order: the dataset may be sorted, and an Inception Score looks at
  # parts of the samples.
  places = (np.arange(rest) * 2 + 1) * len(known) // (2 * max(rest, 1))
  part = np.random.default_rng(num).permutation(np.sort(known)[places])
  return np.concatenate([np.tile(known, whole), part])


# Name: how it chooses, and what a report says of it.
WAYS: dict[str, tuple[Callable, str]] = {
  RANDOM: (_random, "random, each that of a random image of the reference"),
  "balanced": (_balanced, "balanced, each as often as any other"),
  "data": (_data, "as in the reference"),
}
ALIASES = {"uniform": "balanced"}  # older names


def named(way: str) -> str:
  """The name in `WAYS` that `--labels` means.

  Raises:
    ConfigError: there is no such way.
  """
  way = ALIASES.get(way, way)
  if way not in WAYS:
    raise ConfigError(f"--labels={way}: {spelling.hint(way, WAYS)}")
  return way


def draw(
  way: str, reference: Reference, num: int, classes: int, seed: int
) -> np.ndarray | None:
  """Classes `[num]` of the samples, or None for a network without classes.

  Args:
    way: a name in `WAYS`.
    reference: that samples are compared with.
    num: how many.
    classes: of the network.
    seed: of the samples.

  Raises:
    ConfigError: the reference does not say how often each class occurs, or has
      classes that the network does not have.
  """
  if not classes:
    return None
  found = np.asarray(WAYS[way][0](reference, num, classes, seed), np.int32)
  if found.max(initial=0) >= classes:
    raise ConfigError(
      f"the reference {reference.about.get('dataset')} has a class "
      f"{found.max()}, and the network {classes} classes; give "
      "--labels=balanced"
    )
  return found


def describe(way: str, reference: Reference) -> str:
  """What a report says of the samples' classes."""
  if way == RANDOM and reference.labels is None:
    return "random, of all classes alike"
  return WAYS[way][1]
