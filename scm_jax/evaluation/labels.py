"""Classes of the samples that are scored: three ways to choose them.

Classes that are as frequent in the samples as in the data remove a part of the
noise in the samples' covariance, and so of a Fréchet distance: an advantage
over published figures, whose samples have random classes. So `random` is the
default; the others are for comparisons among one's own runs.
"""

from collections.abc import Callable

import numpy as np

from scm_jax import errors
from scm_jax.errors import ConfigError
from scm_jax.evaluation.reference import Reference

RANDOM = "random"
_STREAM = 1  # separates the labels' random numbers from others of the same seed


def _random(real: Reference, num: int, classes: int, seed: int) -> np.ndarray:
  """Draws label i as a function of (seed, i): EDM2's protocol."""
  bits = np.random.PCG64(np.random.SeedSequence((seed, _STREAM)))
  places = np.random.Generator(bits).random(num)
  known = np.arange(classes) if real.labels is None else real.labels
  return known[np.int64(places * len(known))]


def _data(real: Reference, num: int, classes: int, seed: int) -> np.ndarray:
  """Returns each class in its share of the reference's labels."""
  known = real.labels
  if known is None:
    raise ConfigError(
      f"the reference {real.metadata.get('dataset')} does not say how often "
      "each class occurs; give --labels=random or --labels=balanced"
    )
  whole, rest = divmod(num, len(known))
  # In random order: the dataset may be sorted, and an Inception Score looks at
  # parts of the samples.
  places = (np.arange(rest) * 2 + 1) * len(known) // (2 * max(rest, 1))
  part = np.random.default_rng(num).permutation(np.sort(known)[places])
  return np.concatenate([np.tile(known, whole), part])


# The ways to choose the classes, and what a report says of them.
MODES: dict[str, tuple[Callable[..., np.ndarray], str]] = {
  RANDOM: (_random, "random, each that of a random image of the reference"),
  "balanced": (
    lambda real, num, classes, seed: np.arange(num) % classes,
    "balanced, each as often as any other",
  ),
  "data": (_data, "as in the reference"),
}
ALIASES = {"uniform": "balanced"}  # older names


def resolve_mode(name: str) -> str:
  """Returns the key of `MODES` that `--labels` means, or raises ConfigError."""
  name = ALIASES.get(name, name)
  if name not in MODES:
    raise ConfigError(f"--labels={name}: {errors.hint(name, MODES)}")
  return name


def draw(
  mode: str, reference: Reference, num: int, classes: int, seed: int
) -> np.ndarray | None:
  """Returns the classes of samples, [num] int32, or None if there are none.

  Raises:
    ConfigError: the reference does not say how often each class occurs, or has
      classes that the network does not have.
  """
  if not classes:
    return None
  choose, _ = MODES[mode]
  found = np.asarray(choose(reference, num, classes, seed), np.int32)
  wrong = found[(found < 0) | (found >= classes)]
  if len(wrong):
    raise ConfigError(
      f"the reference {reference.metadata.get('dataset')} has a class "
      f"{wrong[0]}, and the network the classes 0 to {classes - 1}; give "
      "--labels=balanced"
    )
  return found


def describe(mode: str, reference: Reference) -> str:
  """Returns what a report says of the samples' classes."""
  if mode == RANDOM and reference.labels is None:
    return "random, of all classes alike"
  return MODES[mode][1]
