"""All scores of a set of generated images, and of real images as a baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics import registry
from scm_jax.metrics.accumulator import summarize_features
from scm_jax.metrics.frechet import MOMENTS
from scm_jax.metrics.metric import Options
from scm_jax.metrics.statistic import KEPT_FEATURES, ImageSet, Statistics

_DEFAULT = Options()


def score(
  generated: ImageSet, reference: ImageSet, options: Options = _DEFAULT
) -> dict[str, Any]:
  """Scores generated images against reference images, by all metrics.

  All scores but KID depend on the sample sizes (see the modules that compute
  them), so the sizes are part of the result. For figures that compare, generate
  as many images as the reference has.

  Args:
    generated: statistics by extractor, as `streaming.collect` returns them.
    reference: statistics of the same extractors; where some are missing, the
      metrics that need them are left out.
    options: how scores are computed.

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
    key: {}
    for metric in registry.METRICS
    if metric.compares
    for key in metric.keys
  }
  scores["warnings"] = []
  for name, mine in generated.items():
    theirs = reference[name]
    try:
      values, warnings = _score_extractor(mine, theirs, options)
    except UserError as error:
      raise UserError(f"features {name!r}: {error}") from error
    for key, value in values.items():
      scores.setdefault(key, {})[name] = value
    scores["warnings"] += [f"{name}: {warning}" for warning in warnings]
    kept = mine.get(KEPT_FEATURES.name), theirs.get(KEPT_FEATURES.name)
    if kept[0] is not None and kept[1] is not None:
      scores["num_kept"] = [len(kept[0]), len(kept[1])]
    scores["num"] = mine[MOMENTS.name].n
    scores["num_reference"] = theirs[MOMENTS.name].n
  return scores


def _score_extractor(
  generated: Statistics, reference: Statistics, options: Options
) -> tuple[dict[str, float], list[str]]:
  """Returns the scores in one extractor's features by key, and warnings."""
  values, warnings = {}, []
  for metric in registry.METRICS:
    found, warning = metric.score(generated, reference, options)
    values |= found
    warnings += [warning] if warning else []
  return values, warnings


def reference_floor(
  reference: ImageSet, *, seed: int = 0, repeats: int = 4
) -> dict[str, Any]:
  """Scores one random half of the reference images against the other half.

  The distance between two samples of one distribution is what a perfect
  generator would get at that size. Halves are smaller than the sets that runs
  are scored with, and the Fréchet distance's bias goes with 1/n, so a run
  scored at full size can come out below this floor: below it, differences
  between runs mean little.

  Args:
    reference: statistics by extractor. Those are left out that have no kept
      features, or no more in a half than there are features.
    seed: seed of the splits and of KID's subsets.
    repeats: number of random splits.

  Returns:
    The scores as `score` returns them, averaged over the splits, with `num` and
    `num_reference` the sizes of the halves; `fd_sd`, the standard deviation
    over the splits by extractor; `repeats` and `seed`. Empty if all extractors
    are left out.
  """
  kept = {}
  for name, statistics in reference.items():
    features = statistics.get(KEPT_FEATURES.name)
    if features is not None and len(features) // 2 > features.shape[1]:
      kept[name] = features
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
  sizes = {key: splits[0][key] for key in ("num", "num_reference")}
  return {**over_repeats(splits), **sizes, "repeats": repeats, "seed": seed}


def own_scores(images: ImageSet) -> dict[str, dict[str, float]]:
  """Returns printed scores that need no reference, by key and extractor."""
  found: dict[str, dict[str, float]] = {}
  for name, statistics in images.items():
    values, _ = _score_extractor(statistics, {}, Options())
    for key in registry.columns().keys() & values.keys():
      found.setdefault(key, {})[name] = values[key]
  return found


def over_repeats(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Summarises the scores of several sets of images of one kind.

  Args:
    repeats: what `score` returned for each of them, two or more.

  Returns:
    The mean of each score by extractor, and under `fd_sd` the Fréchet
    distance's sample standard deviation (of n - 1).
  """
  first = repeats[0]
  means = {
    key: {
      name: float(np.mean([scores[key][name] for scores in repeats]))
      for name in first[key]
    }
    for key in registry.keys()
    if key in first
  }
  deviations = {
    name: float(np.std([scores["fd"][name] for scores in repeats], ddof=1))
    for name in first["fd"]
  }
  return {**means, "fd_sd": deviations}
