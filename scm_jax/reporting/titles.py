"""The names that readers are shown for datasets, features and columns."""

from scm_jax.metrics import registry

_DATASETS = {
  "cifar10": "CIFAR-10",
  "imagenet64": "ImageNet 64×64",
  "imagenet512": "ImageNet 512×512",
  "imagenet512_latents": "ImageNet 512×512 latents",
}
_DISTANCES = {"inception": "FID", "dinov2": "FD-DINOv2"}
_SETTINGS = {
  "ema": "EMA",
  "sigma_max": "σ_max",
  "dtype": "type",
  "labels": "classes",
  "evaluations_per_sample": "per sample",
  "training_evaluations": "training",
}


def dataset(name: str) -> str:
  """Returns a dataset's title; datasets of a user's own keep their names."""
  from scm_jax.data import sources  # imports TFDS

  if name in sources.BUILT_IN:
    return sources.BUILT_IN[name].title
  return _DATASETS.get(name, name)


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
