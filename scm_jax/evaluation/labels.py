"""Classes of the samples that are scored: three ways to choose them.

A Fréchet distance of few samples is too large, by how much the samples'
covariance happens to be off. Classes that are as frequent in the samples as in
the data remove a part of that noise, and with it a part of the distance: an
advantage over published figures, whose samples have random classes. So `random`
is the default; the others are for comparisons among one's own runs.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from scm_jax import errors
from scm_jax.errors import ConfigError
from scm_jax.evaluation.reference import Reference

RANDOM = "random"
_STREAM = 1  # separates the labels' random numbers from others of the same seed


def _random(
  reference: Reference, num: int, classes: int, seed: int
) -> np.ndarray:
  """Draws label i as a function of (seed, i): EDM2's protocol."""
  bits = np.random.PCG64(np.random.SeedSequence((seed, _STREAM)))
  places = np.random.Generator(bits).random(num)
  known = np.arange(classes) if reference.labels is None else reference.labels
  return known[np.int64(places * len(known))]


def _balanced(
  reference: Reference, num: int, classes: int, seed: int
) -> np.ndarray:
  """Returns each class as often as any other."""
  del reference, seed
  return np.arange(num) % classes


def _data(
  reference: Reference, num: int, classes: int, seed: int
) -> np.ndarray:
  """Returns each class in its share of the reference's labels."""
  del classes, seed
  known = reference.labels
  if known is None:
    raise ConfigError(
      f"the reference {reference.metadata.get('dataset')} does not say how "
      "often each class occurs; give --labels=random or --labels=balanced"
    )
  whole, rest = divmod(num, len(known))
  # In random order: the dataset may be sorted, and an Inception Score looks at
  # parts of the samples.
  places = (np.arange(rest) * 2 + 1) * len(known) // (2 * max(rest, 1))
  part = np.random.default_rng(num).permutation(np.sort(known)[places])
  return np.concatenate([np.tile(known, whole), part])


@dataclasses.dataclass(frozen=True)
class Mode:
  """A way to choose the classes.

  Attributes:
    choose: `choose(reference, num, classes, seed)` returns [num] labels.
    description: what a report says of the classes.
  """

  choose: Callable[[Reference, int, int, int], np.ndarray]
  description: str


MODES = {
  RANDOM: Mode(_random, "random, each that of a random image of the reference"),
  "balanced": Mode(_balanced, "balanced, each as often as any other"),
  "data": Mode(_data, "as in the reference"),
}
ALIASES = {"uniform": "balanced"}  # older names


def resolve_mode(name: str) -> str:
  """Returns the key of `MODES` that `--labels` means.

  Raises:
    ConfigError: there is no such mode.
  """
  name = ALIASES.get(name, name)
  if name not in MODES:
    raise ConfigError(f"--labels={name}: {errors.hint(name, MODES)}")
  return name


def draw(
  mode: str, reference: Reference, num: int, classes: int, seed: int
) -> np.ndarray | None:
  """Chooses the classes of samples.

  Args:
    mode: a key of `MODES`.
    reference: what the samples are compared with.
    num: number of samples.
    classes: number of classes of the network.
    seed: seed of the samples.

  Returns:
    [num] int32, or None for a network without classes.

  Raises:
    ConfigError: the reference does not say how often each class occurs, or has
      classes that the network does not have.
  """
  if not classes:
    return None
  chosen = MODES[mode].choose(reference, num, classes, seed)
  found = np.asarray(chosen, np.int32)
  if found.max(initial=0) >= classes:
    raise ConfigError(
      f"the reference {reference.metadata.get('dataset')} has a class "
      f"{found.max()}, and the network {classes} classes; give "
      "--labels=balanced"
    )
  return found


def describe(mode: str, reference: Reference) -> str:
  """Returns what a report says of the samples' classes."""
  if mode == RANDOM and reference.labels is None:
    return "random, of all classes alike"
  return MODES[mode].description
