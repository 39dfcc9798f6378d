"""All scores of one set of generated images, and the floor they stand on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics import frechet, kernel, manifold
from scm_jax.metrics.accumulator import Collected

Set = Mapping[str, Collected]  # a set of images, by feature space
SHARES = ("precision", "recall", "density", "coverage")
METRICS = ("fd", "kid", "kid_sd", *SHARES)
INCEPTION = ("inception_score", "inception_score_sd", "inception_score_whole")
ENOUGH = 10  # samples for each feature, below which a report warns


def score(
  generated: Set,
  reference: Set,
  *,
  seed: int = 0,
  neighbours: int = 3,
  subset_size: int = 1000,
  subsets: int = 20,
  allow_few: bool = False,
) -> dict[str, Any]:
  """Scores generated images against reference images.

  All scores but KID depend on the sample sizes (see the modules that compute
  them), so the sizes are part of the result. For figures that compare, generate
  as many images as the reference has.

  Args:
    generated: statistics by feature space, as `streaming.collect` gives them.
    reference: likewise; spaces without kept features give a Fréchet distance
      alone.
    seed: of KID's subsets.
    neighbours: k of precision and recall; density and coverage take 5.
    subset_size: of KID's subsets.
    subsets: number of KID's subsets; fewer than `kernel_distance`'s own
      default, since subsets of a small reference overlap anyway.
    allow_few: give a Fréchet distance even with fewer samples than features.

  Returns:
    `{"fd": {space: float}, ...}` for all of `METRICS`, and `INCEPTION` where
    the extractor classifies; `num` and `num_reference`, the sizes (the latter
    None where a file does not say); `num_kept`, of how many samples single
    features were compared, and `warnings`, a list of lines.

  Raises:
    UserError: too few images.
  """
  scores: dict[str, Any] = {metric: {} for metric in METRICS}
  scores["warnings"] = []
  for name, mine in generated.items():
    theirs = reference[name]
    try:
      scores["fd"][name] = frechet.frechet_distance(
        mine.moments, theirs.moments, allow_few=allow_few
      )
      few = enough(mine.moments, theirs.moments)
      scores["warnings"] += [f"{name}: {few}"] if few else []
      if mine.classes is not None:
        for key, value in zip(INCEPTION, mine.classes.score(), strict=True):
          scores.setdefault(key, {})[name] = value
      if mine.kept is not None and theirs.kept is not None:
        kid = kernel.kernel_distance(
          mine.kept,
          theirs.kept,
          subset_size=subset_size,
          subsets=subsets,
          seed=seed,
        )
        scores["kid"][name], scores["kid_sd"][name] = kid
        shares = _shares(mine.kept, theirs.kept, neighbours)
        for key, value in zip(SHARES, shares, strict=True):
          scores[key][name] = value
        scores["num_kept"] = [len(mine.kept), len(theirs.kept)]
    except UserError as error:
      raise UserError(f"features {name!r}: {error}") from error
    scores["num"], scores["num_reference"] = mine.moments.n, theirs.moments.n
  return scores


def enough(*moments: frechet.Moments) -> str:
  """A warning where a Fréchet distance says much about the sample size."""
  counts = [m.n for m in moments if m.n is not None]
  few, dim = min(counts, default=0), moments[0].mean.shape[0]
  if not counts or few >= ENOUGH * dim:
    return ""
  what = "singular" if few <= dim else "noisy"
  return (
    f"{few} samples for {dim} features, so the covariance is {what} and the "
    "Fréchet distance biased upwards; compare at this size only"
  )


def reference_floor(
  reference: Set, *, seed: int = 0, repeats: int = 4, **options: Any
) -> dict[str, Any]:
  """Scores of one random half of the reference against the other.

  The distance between two samples of one distribution is what a perfect
  generator would get at that size. Halves are smaller than the sets that runs
  are scored with, and the Fréchet distance's bias goes with 1/n, so a run
  scored at full size can come out below this floor: below it, differences
  between runs mean little.

  Args:
    reference: statistics by feature space, with kept features.
    seed: of the splits and of KID's subsets.
    repeats: number of random splits averaged.
    **options: passed on to the scores, as in `score`.

  Returns:
    As `score`, averaged over splits, with `num` and `num_reference` the sizes
    of the halves; and `"fd_sd": {name: float}`, the standard deviation over
    splits, `"repeats"` and `"seed"`.

  Raises:
    UserError: too few images.
  """
  kept = {k: c.kept for k, c in reference.items() if c.kept is not None}
  count = len(next(iter(kept.values())))
  size = count // 2
  rng = np.random.default_rng(seed)
  splits = []
  for _ in range(repeats):
    # An odd image is left out: equal halves make KID use them whole.
    halves = rng.permutation(count)[: 2 * size].reshape(2, size)
    one, other = (
      {name: of_features(x[half]) for name, x in kept.items()}
      for half in halves
    )
    splits.append(score(one, other, seed=seed, **options))
  result = mean_scores(splits, METRICS)
  result["fd_sd"] = {
    name: float(np.std([split["fd"][name] for split in splits]))
    for name in kept
  }
  sizes = {key: splits[0][key] for key in ("num", "num_reference")}
  return {**result, **sizes, "repeats": repeats, "seed": seed}


def of_features(features: np.ndarray) -> Collected:
  """Statistics of features [n, d] that are all kept."""
  return Collected(frechet.feature_stats(features), features)


def mean_scores(
  several: Sequence[Mapping[str, Any]], metrics: Sequence[str]
) -> dict[str, Any]:
  """The mean of each metric in each feature space."""
  return {
    metric: {
      name: float(np.mean([scores[metric][name] for scores in several]))
      for name in several[0][metric]
    }
    for metric in metrics
    if metric in several[0]
  }


def _shares(
  generated: np.ndarray, reference: np.ndarray, neighbours: int
) -> tuple[float, float, float, float]:
  """Precision, recall, density and coverage."""
  inside = manifold.precision_recall(generated, reference, k=neighbours)
  counted = manifold.density_coverage(generated, reference)
  precision, recall = inside
  return precision, recall, counted.density, counted.coverage
