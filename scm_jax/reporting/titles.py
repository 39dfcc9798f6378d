"""What readers are shown for objectives, datasets, features and columns.

Objectives of newer versions, which the registry lacks, are drawn as well.
"""

from collections.abc import Iterable
from typing import NamedTuple

from scm_jax.metrics import registry
from scm_jax.objectives import OBJECTIVES
from scm_jax.sampler_kinds import KINDS

_DATASETS = {
  "cifar10": "CIFAR-10",
  "imagenet64": "ImageNet 64×64",
  "imagenet256": "ImageNet 256×256",
  "imagenet256_latents": "ImageNet 256×256 latents",
  "imagenet512": "ImageNet 512×512",
  "imagenet512_latents": "ImageNet 512×512 latents",
}
_DISTANCES = {"inception": "FID", "dinov2": "FD-DINOv2"}
_SETTINGS = {
  "ema": "EMA",
  "guidance_interval": "guided σ",
  "guidance_channels": "guided channels",
  "sigma_max": "σ_max",
  "dtype": "type",
  "labels": "classes",
  "evaluations_per_sample": "per sample",
  "training_evaluations": "training",
}
# For names that the registry does not have, in the order in which they appear.
_SPARE = (("#009E73", "^"), ("#CC79A7", "v"), ("#E69F00", "P"))


class Appearance(NamedTuple):
  """The name, the colour and the marker of an objective in reports."""

  label: str
  color: str
  marker: str


def appearances(names: Iterable[str]) -> dict[str, Appearance]:
  """Returns the appearance of every objective, registered or not."""
  result: dict[str, Appearance] = {}
  for name in dict.fromkeys(names):
    result[name] = Appearance(name, *_SPARE[len(result) % len(_SPARE)])
    if spec := OBJECTIVES.get(name):
      result[name] = Appearance(spec.label, spec.color, spec.marker)
  return result


def is_teacher(name: str) -> bool:
  """Returns whether an objective trains teachers."""
  return name in OBJECTIVES and not KINDS[OBJECTIVES[name].kind].few_steps


def rank(name: str) -> int:
  """Returns an objective's place in legends; unregistered ones come last."""
  return [*OBJECTIVES, name].index(name)


def series_title(name: str, steps: int | None, nfe: int | None) -> str:
  """Returns what a reader is shown: `sCD, 2 steps`, or `teacher, 63 NFE`."""
  if is_teacher(name) or steps is None:
    sampler = "–" if nfe is None else f"{nfe} NFE"
  else:
    sampler = f"{steps} step{'s' * (steps > 1)}"
  return f"{appearances([name])[name].label}, {sampler}"


def dataset(name: str) -> str:
  """Returns a dataset's title; datasets of a user's own keep their names.

  The part of a dataset, `name:train[:80%]`, is kept.
  """
  from scm_jax.data import sources  # imports TFDS

  known = {key: entry.title for key, entry in sources.BUILT_IN.items()}
  key, colon, part = name.partition(":")
  return (known | _DATASETS).get(key, key) + colon + part


def distance(features: str) -> str:
  """Returns the name of a Fréchet distance, as the head of a column."""
  return _DISTANCES.get(features, f"FD {features}")


def quantity(features: str) -> str:
  """Returns the name of a Fréchet distance, as the label of an axis."""
  return _DISTANCES.get(features, f"Fréchet distance, {features} features")


def column(name: str) -> str:
  """Returns the head of a score's or a setting's column."""
  if score := registry.columns().get(name):
    return score.heading
  return _SETTINGS.get(name, name)
