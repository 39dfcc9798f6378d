"""Scores sets of samples against a reference, each of them once."""

import dataclasses
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from scm_jax.evaluation import candidate
from scm_jax.evaluation import labels as labelling
from scm_jax.evaluation.candidate import Subject
from scm_jax.evaluation.reference import Reference
from scm_jax.evaluation.request import Request, Way, digest
from scm_jax.metrics import multihost, scores, streaming
from scm_jax.metrics.partial import DAMAGED, Partial, read_arrays, write_arrays

_LOG = logging.getLogger(__name__)
_COLUMNS = 10  # of the report's picture


@dataclasses.dataclass(frozen=True)
class Scorer:
  """Draws, scores, and remembers on disk what it has scored.

  Several processes have a part of each set; the first one scores it.

  Attributes:
    request: what is asked.
    way: how.
    extraction: of the features.
    reference: to compare with.
    folder: of finished sets, and of the sums of the one under way.
    num: images of each reported set.
    size: images at once.
  """

  request: Request
  way: Way
  extraction: streaming.Extraction
  reference: Reference
  folder: pathlib.Path
  num: int
  size: int

  def classes(self, num_classes: int) -> list[int]:
    """The classes of the picture's columns; none for a network without."""
    if not num_classes:
      return []
    return list(self.reference.classes or range(min(num_classes, _COLUMNS)))

  def score(
    self,
    drawn: Subject,
    num: int,
    seed: int,
    *,
    choice: bool = False,
    save: pathlib.Path | None = None,
  ) -> tuple[dict[str, Any], np.ndarray]:
    """Scores of `num` samples, and a row of them for the picture.

    Args:
      drawn: what draws them.
      num: how many.
      seed: of the samples, and of KID's subsets.
      choice: whether the score only chooses, so that few samples will do.
      save: a file for the samples, too.
    """
    num_classes = drawn.about["config"].data.num_classes
    way = self.request.labels
    labels = labelling.draw(way, self.reference, num, num_classes, seed)
    allow_few = choice or self.request.allow_few
    key = digest(
      (drawn.fingerprint(), num, seed, allow_few, self.request.keep),
      None if labels is None else labels.tobytes(),
      sorted(self.extraction.marks.items()),
      sorted(self.reference.about.items()),
    )[:24]
    finished = self.folder / f"{key}.npz"
    if done := multihost.first(lambda: _finished(finished, save)):
      return done
    places = self._places(labels, num, num_classes)
    witness = candidate.Picked(places)
    if save is not None:
      witness = candidate.Kept(places, save, num)
    partial = Partial(multihost.own(self.folder / key), self.way.save_every)
    collected = candidate.collect(
      drawn,
      self.extraction,
      labels,
      num,
      seed=seed,
      size=self.size,
      keep=self.request.keep,
      witness=witness,
      partial=partial,
    )
    if isinstance(witness, candidate.Kept):
      witness.finish()

    def score() -> tuple[dict[str, Any], np.ndarray]:
      found = scores.score(
        collected, self.reference.spaces, seed=seed, allow_few=allow_few
      )
      row = witness.row()
      write_arrays(finished, candidate.to_result(found, row))
      return found, row

    result = multihost.first(score)
    partial.remove()
    return result

  def _places(
    self, labels: np.ndarray | None, num: int, num_classes: int
  ) -> list[int]:
    """Samples for the picture: the first of each class, or the first ten."""
    classes = self.classes(num_classes)
    if labels is None or not classes:
      real = self.reference.row
      columns = _COLUMNS if real is None else len(real)
      return [i if i < num else -1 for i in range(columns)]
    return [
      int(np.argmax(labels == c)) if (labels == c).any() else -1
      for c in classes
    ]


def _finished(
  path: pathlib.Path, save: pathlib.Path | None
) -> tuple[dict[str, Any], np.ndarray] | None:
  """A set that was scored before, and whose samples are there if wanted."""
  if not path.exists() or (save is not None and not save.exists()):
    return None
  try:
    return candidate.from_result(read_arrays(path))
  except DAMAGED:
    _LOG.warning("scoring again: %s is damaged", path)
    return None


def over_seeds(sets: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Scores of one run over several seeds: means, and of FD sd and minimum.

  Args:
    sets: scores of each seed, with `seed`.

  Returns:
    For one seed its scores. Else the metrics' means, `fd_sd` and `fd_min` by
    feature space, and all of it under `by_seed`.
  """
  first = sets[0]
  seeds = {"seeds": [found["seed"] for found in sets]}
  if len(sets) == 1:
    return {**{k: v for k, v in first.items() if k != "seed"}, **seeds}
  mean = scores.mean_scores(sets, (*scores.METRICS, *scores.INCEPTION))
  values = {name: [s["fd"][name] for s in sets] for name in first["fd"]}
  rest = {k: v for k, v in first.items() if k not in mean and k != "seed"}
  return {
    **mean,
    "fd_sd": {k: float(np.std(v, ddof=1)) for k, v in values.items()},
    "fd_min": {k: min(v) for k, v in values.items()},
    **rest,
    **seeds,
    "by_seed": list(sets),
  }
