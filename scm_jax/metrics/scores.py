"""All scores of a set of generated images, and of real images as a baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics import registry
from scm_jax.metrics.accumulator import summarize_features
from scm_jax.metrics.frechet import MOMENTS
from scm_jax.metrics.metric import KEPT_FEATURES, ImageSet, Options

_DEFAULT = Options()


def score(
  generated: ImageSet, reference: ImageSet, options: Options = _DEFAULT
) -> dict[str, Any]:
  """Scores generated images against reference images, by all metrics.

  Metrics that need statistics which the reference lacks are left out.

  Returns:
    `{"fd": {extractor: float}, ...}` by the keys of all metrics; those of a
    metric that does not compare are there only if an extractor gives what it
    needs. Further `num` and `num_reference`, the sizes (the latter None where a
    file does not say); `num_kept`, of how many samples single features were
    compared; and `warnings`, a list of sentences.

  Raises:
    UserError: there are too few images.
  """
  scores: dict[str, Any] = {
    key: {} for key, metric in registry.by_key().items() if metric.compares
  }
  scores["warnings"] = []
  for name, mine in generated.items():
    theirs = reference[name]
    for metric in registry.METRICS:
      try:
        values, warning = metric.score(mine, theirs, options)
      except UserError as error:
        raise UserError(f"features {name!r}: {error}") from error
      for key, value in values.items():
        scores.setdefault(key, {})[name] = value
      if warning:
        scores["warnings"].append(f"{name}: {warning}")
    if KEPT_FEATURES.name in mine.keys() & theirs.keys():
      scores["num_kept"] = [len(x[KEPT_FEATURES.name]) for x in (mine, theirs)]
    scores["num"] = mine[MOMENTS.name].n
    scores["num_reference"] = theirs[MOMENTS.name].n
  return scores


def reference_floor(
  reference: ImageSet, *, seed: int = 0, repeats: int = 4
) -> dict[str, Any]:
  """Scores one random half of the reference images against the other half.

  This is what a perfect generator would get with as many samples as a half has.
  The Fréchet distance's bias goes with 1/n, so a run scored with more samples
  can come out below this floor, where differences between runs mean little.
  Extractors are left out that have no kept features, or no more in a half than
  there are features.

  Returns:
    The scores over all random splits as `over_repeats` returns them, with `num`
    and `num_reference`, the sizes of the halves, `repeats` and `seed`; and
    `fd_floor`, what infinitely many images of a perfect generator would have
    for a distance to the whole reference. {} if all extractors are left out.
  """
  kept = {
    name: features
    for name, statistics in reference.items()
    if (features := statistics.get(KEPT_FEATURES.name)) is not None
    and len(features) // 2 > features.shape[1]
  }
  if not kept:
    return {}
  count = len(next(iter(kept.values())))
  size = count // 2
  rng = np.random.default_rng(seed)
  splits = []
  for _ in range(repeats):
    # An odd image is left out: equal halves make KID use them whole.
    halves = rng.permutation(count)[: 2 * size].reshape(2, size)
    one, other = (
      {name: summarize_features(x[half]) for name, x in kept.items()}
      for half in halves
    )
    splits.append(score(one, other, Options(seed=seed)))
  facts = {"num": size, "num_reference": size, "repeats": repeats, "seed": seed}
  found = over_repeats(splits)
  # What remains of the extrapolated distance is the bias of the second half,
  # and that of the whole reference is smaller by the ratio of their sizes.
  found["fd_floor"] = {
    name: value * size / whole
    for name, value in found["fd_infinity"].items()
    if (whole := reference[name][MOMENTS.name].n)
  }
  return found | facts


def own_scores(
  images: ImageSet, options: Options
) -> dict[str, dict[str, float]]:
  """Returns printed scores that need no reference, by key and extractor."""
  found: dict[str, dict[str, float]] = {}
  for column in registry.columns().values():
    metric = registry.by_key()[column.key]
    for name, statistics in images.items():
      values, _ = metric.score(statistics, {}, options)
      if values:
        found.setdefault(column.key, {})[name] = values[column.key]
  return found


def over_repeats(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns the means of what `score` returned for two or more sets of images.

  Under `fd_sd` is the Fréchet distance's sample standard deviation (of n - 1).
  A score that one of the sets lacks is left out.
  """
  values = {
    key: {
      name: [scores[key][name] for scores in repeats]
      for name in found
      if all(name in scores.get(key, ()) for scores in repeats)
    }
    for key in registry.by_key()
    if (found := repeats[0].get(key)) is not None
  }
  means = {
    key: {name: float(np.mean(several)) for name, several in by_name.items()}
    for key, by_name in values.items()
  }
  distances = values["fd"].items()
  deviations = {name: float(np.std(fds, ddof=1)) for name, fds in distances}
  return means | {"fd_sd": deviations}
