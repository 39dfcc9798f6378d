"""Scores sets of samples against a reference, each of them once."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scm_jax.errors import UserError
from scm_jax.evaluation import labels
from scm_jax.evaluation.candidate import Candidate, Samples, collect
from scm_jax.evaluation.observers import (
  ImagePicker,
  SampleFile,
  SampleWriter,
)
from scm_jax.evaluation.reference import FORMAT, Reference
from scm_jax.evaluation.request import PassOptions, Protocol, digest
from scm_jax.metrics import (
  array_file,
  multihost,
  registry,
  scores,
  streaming,
)
from scm_jax.metrics.array_file import PassCheckpoint
from scm_jax.metrics.metric import Options
from scm_jax.reporting import records

_COLUMNS = 10  # columns of the report's picture
Scored = tuple[dict[str, Any], np.ndarray]  # scores, and a row of the picture


@dataclasses.dataclass(frozen=True)
class Scorer:
  """Draws samples, scores them, and caches the scores on disk.

  Several processes draw a part of each set; process 0 scores it.
  """

  extraction: streaming.Extraction
  reference: Reference
  protocol: Protocol
  options: PassOptions
  folder: pathlib.Path  # of finished sets, and statistics of one under way
  num: int  # samples of each run and seed that are reported

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
    save: SampleFile | None = None,
  ) -> Scored:
    """Returns the scores of `num` samples, and a row of them for the picture.

    The seed is that of the samples and of random subsets. Few samples allow no
    Fréchet distance, unless `allow_few` or the protocol says so. All samples
    are saved if a file is given.
    """
    protocol, classes = self.protocol, candidate.num_classes
    label = candidate.own_labels(num)
    if label is None:
      label = labels.draw(protocol.labels, self.reference, num, classes, seed)
    samples = Samples(num, label, seed)
    few = allow_few or protocol.allow_few
    options = Options(seed=seed, allow_few=few, asked=label)
    key = self._key(candidate, samples, options)
    finished = self.folder / f"{key}.npz"
    parse = lambda arrays: (json.loads(str(arrays["scores"])), arrays["row"])

    def cached() -> Scored | None:
      if save is not None and not save.complete():
        return None
      return array_file.read_cached(finished, parse)

    if done := multihost.from_process_zero(cached):
      return done
    indices = self._picture_indices(samples, classes)
    writer = SampleWriter(indices, save, num) if save else None
    picker = writer or ImagePicker(indices)
    checkpoint = PassCheckpoint(self.folder / key, self.options.save_every)
    generated = collect(
      candidate, self.extraction, samples, self.options, picker, checkpoint
    )

    def compute() -> Scored:
      try:
        found = scores.score(generated, self.reference.statistics, options)
      except UserError as error:
        raise UserError(f"{candidate.name}: {error}") from error
      content = {"scores": json.dumps(found), "row": picker.row()}
      array_file.write_arrays(finished, content)
      return found, picker.row()

    result = multihost.from_process_zero(compute)
    if writer:  # after the scores: until then, a kill costs no drawing
      writer.finish()
    checkpoint.remove()
    return result

  def score_seeds(
    self, candidate: Candidate, files: Mapping[int, SampleFile]
  ) -> Scored:
    """Returns the scores over all seeds, and a row of the first one's samples.

    Samples are kept in the files, by seed, if there are any.
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
      (FORMAT, *sorted(registry.by_key())),
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
    return [label.tolist().index(c) if c in label else -1 for c in classes]

  def describe_reference(self) -> dict[str, Any]:
    """Returns what the report says of the reference: facts and its scores."""
    known, protocol = self.reference, self.protocol
    drawn = protocol.labels
    facts = {
      **known.metadata,
      **({"labels": labels.describe(drawn, known)} if drawn else {}),
      **scores.reference_floor(known.statistics, seed=protocol.seeds[0]),
      **scores.own_scores(known.statistics, Options(asked=known.labels)),
    }
    for extractor in self.extraction.extractors:
      facts |= extractor.facts
    return facts


def over_seeds(sets: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Summarises the scores of each seed of one candidate, which have `seed`.

  Returns the scores of a single seed as they are. Of several, returns the means
  of all scores, the standard deviation `fd_sd` and minimum `fd_min` of the
  Fréchet distance by feature extractor, and all sets under `by_seed`.
  """
  first = {key: value for key, value in sets[0].items() if key != "seed"}
  seeds = [found["seed"] for found in sets]
  if len(sets) == 1:
    return first | {"seeds": seeds}
  summary = scores.over_repeats(sets)
  summary["fd_min"] = {
    name: min(found["fd"][name] for found in sets) for name in first["fd"]
  }
  found = summary | first | summary  # the summary's keys come first
  return {**found, "seeds": seeds, "by_seed": list(sets)}
