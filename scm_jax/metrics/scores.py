"""All scores of one set of generated images, and the floor they stand on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.metrics import frechet, kernel, manifold
from scm_jax.metrics.features import Extractor
from scm_jax.pictures import check_images

Features = Mapping[str, np.ndarray]


def extract(images: np.ndarray, extractors: Sequence[Extractor]) -> Features:
  """Features [N, dim] of uint8 images [N, H, W, C] by extractor name."""
  check_images(np.asarray(images))
  return {extractor.name: extractor(images) for extractor in extractors}


def score(
  generated: np.ndarray,
  reference: np.ndarray | Features,
  extractors: Sequence[Extractor],
  *,
  seed: int = 0,
  neighbours: int = 3,
  subset_size: int = 1000,
  subsets: int = 20,
  allow_few: bool = False,
) -> dict[str, Any]:
  """Scores generated images against reference images.

  Fréchet distance, precision and recall depend on the sample sizes (see the
  modules that compute them), so the sizes are part of the result. For figures
  that compare, generate as many images as the reference has.

  Args:
    generated: [N, H, W, C] uint8.
    reference: [M, H, W, C] uint8, or what `extract` made of them (which saves
      its time when many runs are scored).
    extractors: the feature spaces to score in.
    seed: of KID's subsets.
    neighbours: k of precision and recall.
    subset_size: of KID's subsets.
    subsets: number of KID's subsets; fewer than `kernel_distance`'s own
      default, since subsets of a small reference overlap anyway.
    allow_few: give a Fréchet distance even with fewer samples than features.

  Returns:
    `{"fd": {name: float}, "kid": ..., "kid_sd": ..., "precision": ...,
    "recall": ..., "num": N, "num_reference": M}`.

  Raises:
    UserError: shapes that do not match, or too few images.
  """
  if not isinstance(reference, Mapping):
    reference = extract(reference, extractors)
  return _score_features(
    extract(generated, extractors),
    reference,
    seed=seed,
    neighbours=neighbours,
    subset_size=subset_size,
    subsets=subsets,
    allow_few=allow_few,
  )


def reference_floor(
  reference: np.ndarray | Features,
  extractors: Sequence[Extractor],
  *,
  seed: int = 0,
  repeats: int = 4,
  **options: Any,
) -> dict[str, Any]:
  """Scores of one random half of the reference against the other.

  The distance between two samples of one distribution is what a perfect
  generator would get at that size. Halves are smaller than the sets that runs
  are scored with, and the Fréchet distance's bias goes with 1/n, so a run
  scored at full size can come out below this floor: below it, differences
  between runs mean little.

  Args:
    reference: [M, H, W, C] uint8, or what `extract` made of them.
    extractors: the feature spaces.
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
  if not isinstance(reference, Mapping):
    reference = extract(reference, extractors)
  count = len(next(iter(reference.values())))
  half = count // 2
  rng = np.random.default_rng(seed)
  splits = []
  for _ in range(repeats):
    # An odd image is left out: equal halves make KID use them whole.
    first, second = rng.permutation(count)[: 2 * half].reshape(2, half)
    splits.append(
      _score_features(
        {name: values[first] for name, values in reference.items()},
        {name: values[second] for name, values in reference.items()},
        seed=seed,
        **options,
      )
    )
  result: dict[str, Any] = {
    metric: {
      name: float(np.mean([split[metric][name] for split in splits]))
      for name in reference
    }
    for metric in ("fd", "kid", "kid_sd", "precision", "recall")
  }
  result["fd_sd"] = {
    name: float(np.std([split["fd"][name] for split in splits]))
    for name in reference
  }
  sizes = {key: splits[0][key] for key in ("num", "num_reference")}
  return {**result, **sizes, "repeats": repeats, "seed": seed}


def _score_features(
  generated: Features,
  reference: Features,
  *,
  seed: int = 0,
  neighbours: int = 3,
  subset_size: int = 1000,
  subsets: int = 20,
  allow_few: bool = False,
) -> dict[str, Any]:
  """`score` on features instead of images."""
  scores: dict[str, Any] = {
    metric: {} for metric in ("fd", "kid", "kid_sd", "precision", "recall")
  }
  for name, x in generated.items():
    y = reference[name]
    try:
      scores["fd"][name] = frechet.frechet_distance(
        frechet.feature_stats(x), frechet.feature_stats(y), allow_few=allow_few
      )
      kid = kernel.kernel_distance(
        x, y, subset_size=subset_size, subsets=subsets, seed=seed
      )
      shares = manifold.precision_recall(x, y, k=neighbours)
    except UserError as error:
      raise UserError(f"features {name!r}: {error}") from error
    scores["kid"][name], scores["kid_sd"][name] = kid
    scores["precision"][name], scores["recall"][name] = shares
    scores["num"], scores["num_reference"] = len(x), len(y)
  return scores
