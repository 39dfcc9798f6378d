"""Scores sets of samples against a reference, each of them once."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scm_jax.evaluation import candidate as candidates
from scm_jax.evaluation import labels
from scm_jax.evaluation.candidate import Candidate, Samples
from scm_jax.evaluation.observers import ImagePicker, SampleWriter
from scm_jax.evaluation.reference import Reference
from scm_jax.evaluation.request import PassOptions, Protocol, digest
from scm_jax.metrics import array_file, multihost, scores, streaming
from scm_jax.metrics.classifier import ClassifierExtractor
from scm_jax.metrics.metric import Options
from scm_jax.metrics.pass_checkpoint import PassCheckpoint
from scm_jax.metrics.statistic import Arrays
from scm_jax.reporting import records

_COLUMNS = 10  # columns of the report's picture
Scored = tuple[dict[str, Any], np.ndarray]  # scores, and a row of the picture


@dataclasses.dataclass(frozen=True)
class Scorer:
  """Draws samples, scores them, and caches the scores on disk.

  Several processes draw a part of each set; process 0 scores it.

  Attributes:
    extraction: the feature extractors.
    reference: what samples are compared with.
    protocol: which samples are scored, and how.
    options: the options of a pass over samples.
    folder: folder of finished sets, and of the statistics of an unfinished one.
    num: number of samples of each run and seed that are reported.
  """

  extraction: streaming.Extraction
  reference: Reference
  protocol: Protocol
  options: PassOptions
  folder: pathlib.Path
  num: int

  @property
  def main_extractor(self) -> str:
    """Returns the name of the extractor to select by, and to show first."""
    return records.main_space([e.name for e in self.extraction.extractors])

  def picture_classes(self, num_classes: int) -> list[int]:
    """Returns the classes of the picture's columns; none without classes."""
    if not num_classes:
      return []
    return list(self.reference.classes or range(min(num_classes, _COLUMNS)))

  def score(
    self,
    candidate: Candidate,
    num: int,
    seed: int,
    *,
    allow_few: bool = False,
    save: pathlib.Path | None = None,
  ) -> Scored:
    """Scores samples of a candidate.

    Args:
      candidate: what draws the samples.
      num: number of samples.
      seed: seed of the samples, and of random subsets.
      allow_few: compute a Fréchet distance even with fewer samples than
        features, even if the protocol does not.
      save: a file for all samples.

    Returns:
      The scores, and a row of samples for the picture.
    """
    classes = candidate.num_classes
    label = labels.draw(
      self.protocol.labels, self.reference, num, classes, seed
    )
    samples = Samples(num, label, seed)
    options = Options(seed=seed, allow_few=allow_few or self.protocol.allow_few)
    key = self._key(candidate, samples, options)
    finished = self.folder / f"{key}.npz"

    def cached() -> Scored | None:
      if save is not None and not save.exists():
        return None
      return array_file.read_cached(finished, _from_arrays)

    if done := multihost.from_process_zero(cached):
      return done
    picker = ImagePicker(self._picture_indices(samples, classes))
    if save is not None:
      picker = SampleWriter(self._picture_indices(samples, classes), save, num)
    checkpoint = PassCheckpoint(
      multihost.process_path(self.folder / key), self.options.save_every
    )
    generated = candidates.collect(
      candidate, self.extraction, samples, self.options, picker, checkpoint
    )
    if isinstance(picker, SampleWriter):
      picker.finish()

    def compute() -> Scored:
      found = scores.score(generated, self.reference.statistics, options)
      row = picker.row()
      array_file.write_arrays(finished, _to_arrays(found, row))
      return found, row

    result = multihost.from_process_zero(compute)
    checkpoint.remove()
    return result

  def score_seeds(
    self, candidate: Candidate, files: Mapping[int, pathlib.Path]
  ) -> Scored:
    """Scores samples of all seeds of the protocol.

    Args:
      candidate: what draws the samples.
      files: files for the samples, by seed, if they are to be kept.

    Returns:
      The scores over all seeds, and a row of the first seed's samples.
    """
    sets, rows = [], []
    for seed in self.protocol.seeds:
      found, row = self.score(candidate, self.num, seed, save=files.get(seed))
      sets.append({"seed": seed, **found})
      rows.append(row)
    return over_seeds(sets), rows[0]

  def _key(
    self, candidate: Candidate, samples: Samples, options: Options
  ) -> str:
    """Returns a digest of everything that the scores depend on."""
    num, label, seed = samples
    keep = self.options.keep
    return digest(
      (candidate.fingerprint(), num, seed, options.allow_few, keep),
      None if label is None else label.tobytes(),
      sorted(self.extraction.fingerprints.items()),
      sorted(self.reference.metadata.items()),
    )[:24]

  def _picture_indices(self, samples: Samples, num_classes: int) -> list[int]:
    """Returns the indices of the first sample of each class, or the first ten.

    An index is -1 where there is no such sample.
    """
    classes = self.picture_classes(num_classes)
    num, label, _ = samples
    if label is None or not classes:
      real = self.reference.row
      columns = _COLUMNS if real is None else len(real)
      return [i if i < num else -1 for i in range(columns)]
    return [
      int(np.argmax(label == c)) if (label == c).any() else -1 for c in classes
    ]

  def describe_reference(self) -> dict[str, Any]:
    """Returns what the report says of the reference: facts and its scores."""
    known, protocol = self.reference, self.protocol
    facts = {
      **known.metadata,
      "labels": labels.describe(protocol.labels, known),
      **scores.reference_floor(known.statistics, seed=protocol.seeds[0]),
      **scores.own_scores(known.statistics),
    }
    for extractor in self.extraction.extractors:
      if isinstance(extractor, ClassifierExtractor):
        facts["classifier_accuracy"] = extractor.classifier.accuracy
    return facts


def _to_arrays(found: dict[str, Any], row: np.ndarray) -> Arrays:
  """Returns the arrays from which `_from_arrays` makes scores and row again."""
  return {"scores": np.asarray(json.dumps(found)), "row": row}


def _from_arrays(arrays: Arrays) -> Scored:
  return json.loads(str(arrays["scores"])), arrays["row"]


def over_seeds(sets: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Summarises the scores of one candidate over several seeds.

  Args:
    sets: scores of each seed, with `seed`.

  Returns:
    For one seed its scores. Else the means of all scores, the standard
    deviation `fd_sd` and minimum `fd_min` of the Fréchet distance by feature
    extractor, and all sets under `by_seed`.
  """
  first = {key: value for key, value in sets[0].items() if key != "seed"}
  seeds = {"seeds": [found["seed"] for found in sets]}
  if len(sets) == 1:
    return {**first, **seeds}
  summary = scores.over_repeats(sets)
  least = {
    name: min(found["fd"][name] for found in sets) for name in first["fd"]
  }
  rest = {key: value for key, value in first.items() if key not in summary}
  return {**summary, "fd_min": least, **rest, **seeds, "by_seed": list(sets)}
