"""From a request to `report.json` and `report.png`."""

import dataclasses
import json
import logging
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from scm_jax.codec import LatentCodec
from scm_jax.errors import ConfigError, UserError
from scm_jax.evaluation import labels, reference, scoring, selection
from scm_jax.evaluation.candidate import Subject
from scm_jax.evaluation.dataset import Dataset
from scm_jax.evaluation.reference import Reference
from scm_jax.evaluation.request import Request, Way, digest, file_digest
from scm_jax.evaluation.scoring import Scorer
from scm_jax.metrics import (
  extractors,
  multihost,
  pretrained,
  scores,
  streaming,
)
from scm_jax.metrics.features import ClassifierExtractor
from scm_jax.reporting import evaluation_figure as figure
from scm_jax.reporting import records as report
from scm_jax.reporting import titles
from scm_jax.sampler import Sampler

_LOG = logging.getLogger(__name__)
NAMES = {"teacher": "teacher", "sct": "sCT", "scd": "sCD"}
FIELD_NUM = 50_000  # images at most, unless asked: the field's custom
FOLDER = "evaluation_partial"  # of sums and of finished sets


def evaluate(
  request: Request, out: epath.Path, way: Way | None = None
) -> dict[str, Any]:
  """Writes `report.json` and `report.png` into `out`; returns the report.

  A report that answers the same request about the same checkpoints is kept. An
  evaluation that was killed goes on from its last saved sums, and ends with the
  same report to the byte. Several processes, which all have to call it, share
  the work; the first one alone writes what others read.

  Raises:
    UserError: a workdir or the reference cannot be used, or not all processes
      are asked the same.
    ConfigError: the runs or the features do not go together.
  """
  way = way or Way()
  extractors.check(request.features, dict(request.weights))
  loader = selection.Loader(request)
  if request.reference is None:
    _, about = loader.load(request.workdirs[0], request.ema[0])
    asked_for = about["config"].evaluate.reference
    request = dataclasses.replace(request, reference=asked_for)
  selection.check(request, loader)
  files = [_weights_digest(*pair) for pair in request.weights]
  if request.reference and reference.is_file(request.reference):
    files.append(file_digest(request.reference))
  state = [*selection.state(request, loader), *files]
  asked = json.loads(json.dumps([dataclasses.asdict(request), state]))
  _check_shared(asked, way)
  if kept := multihost.first(lambda: _kept(asked, way, out)):
    _LOG.info("%s is up to date", out / "report.json")
    return kept
  scorer = _scorer(request, way, out, loader)
  records: list[dict[str, Any]] = []
  rows: dict[str, np.ndarray] = {}
  if scorer.reference.row is not None:
    rows["real images"] = scorer.reference.row
  for candidates in selection.groups(request, loader):
    name = _name(candidates[0], records)
    record, rows[name] = _record(scorer, name, candidates, out)
    records.append(record)
  classes = scorer.classes(candidates[0].about["config"].data.num_classes)

  def write() -> dict[str, Any]:
    known = _about_reference(scorer)
    result = report.make_report(records, known) | {"asked": asked}
    figure.write_figure(
      out / "report.png",
      result,
      rows,
      headings=[str(c) for c in classes],
      title=f"scm_jax on {titles.dataset(known['dataset'])}",
    )
    # Last, because its presence says that the evaluation is complete.
    report.write_report(out / "report.json", result)
    return result

  result = multihost.first(write)
  shutil.rmtree(scorer.folder, ignore_errors=True)
  return result


def _check_shared(asked: Any, way: Way) -> None:
  """Raises UserError unless the processes can share the work."""
  marks = list(multihost.every(digest(asked)))
  for index, mark in enumerate(marks):
    if mark != marks[0]:
      raise UserError(
        f"process {index} is asked another thing than process 0, or finds "
        "other weights: give all the same command and the same files"
      )
  if way.save_samples and len(marks) > 1:
    raise ConfigError(
      "--save-samples: one process writes the file; start one alone, or leave "
      "it out"
    )


def _kept(asked: Any, way: Way, out: epath.Path) -> dict[str, Any] | None:
  """The report there is if it answers the same question."""
  try:
    old = json.loads((out / "report.json").read_text())
  except (OSError, ValueError):
    return None
  if not (out / "report.png").exists() or old.get("asked") != asked:
    return None
  missing = way.save_samples and _samples_missing(old, out)
  return None if missing else old


def _samples_missing(kept: dict[str, Any], out: epath.Path) -> bool:
  return not all(
    _sample_file(out, run["name"], seed).exists()
    for run in kept["runs"]
    for seed in run["seeds"]
  )


def _sample_file(out: epath.Path, name: str, seed: int) -> pathlib.Path:
  stem = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
  return pathlib.Path(out) / "samples" / f"{stem}_seed_{seed}.npy"


def _weights_digest(name: str, path: str) -> str:
  if not pathlib.Path(path).expanduser().is_file():
    pretrained.load(name, path)  # raises, and says what to fetch
  return file_digest(path)


def _scorer(
  request: Request, way: Way, out: epath.Path, loader: selection.Loader
) -> Scorer:
  """Makes the extractors and the reference's statistics."""
  model, about = loader.load(request.workdirs[0], request.ema[0])
  size = way.batch_size or about["config"].sample.batch_size
  if "://" in str(out):
    raise ConfigError(
      f"--out={out}: a report is written to a local disk; copy it then"
    )
  cache = pathlib.Path(way.cache or out / "features")

  def dataset(name: str) -> Dataset:
    return Dataset(about["config"].data, name, model)

  def labelled() -> tuple[np.ndarray, np.ndarray]:
    name = request.reference or ""
    return dataset("" if reference.is_file(name) else name).everything()

  extraction = streaming.Extraction(
    extractors.make(
      request.features,
      model.image_shape,
      labelled,
      weights=dict(request.weights),
      cache_dir=cache,
    )
  )
  known = reference.find(request, way, dataset, extraction, cache, size)
  known = dataclasses.replace(
    known, warnings=(*known.warnings, *_preview(model))
  )
  for line in known.warnings:
    _LOG.warning(line)
  _check_choice(request, known)
  folder = pathlib.Path(out) / FOLDER
  num = request.num or min(known.about["images"] or FIELD_NUM, FIELD_NUM)
  size = min(size, num)  # one compilation for choices, too
  return Scorer(request, way, extraction, known, folder, num, size)


def _preview(model: Sampler) -> tuple[str, ...]:
  """A warning where samples are not images."""
  codec = model.codec
  if not isinstance(codec, LatentCodec) or codec.autoencoder:
    return ()
  return (
    "there is no autoencoder, so the samples are small previews of latents and "
    "no distance to real images means anything; give --autoencoder=FILE",
  )


def _check_choice(request: Request, known: Reference) -> None:
  """Raises ConfigError if the reference has not what is to choose by."""
  main = report.main_space(request.features)
  if not request.chooses or request.select_by != "kid":
    return
  if known.spaces[main].kept is None:
    raise ConfigError(
      f"--select-by=kid compares single features, and {request.reference} has "
      "their mean and covariance alone; give --select-by=fd --select-num=0"
    )


def _record(
  scorer: Scorer,
  name: str,
  candidates: Sequence[Subject],
  out: epath.Path,
) -> tuple[dict[str, Any], np.ndarray]:
  """One run's record, and its row of the picture."""
  request, num = scorer.request, scorer.num
  chosen, selection, warnings = _choose(scorer, candidates)
  sets, rows = [], []
  for seed in request.seeds:
    _LOG.info("drawing and scoring %d images: %s, seed %d", num, name, seed)
    save = _sample_file(out, name, seed) if scorer.way.save_samples else None
    found, row = scorer.score(chosen, num, seed, save=save)
    sets.append({"seed": seed, **found})
    rows.append(row)
  found = scoring.over_seeds(sets)
  found["warnings"] = [
    *(*scorer.reference.warnings, *warnings),
    *found["warnings"],
  ]
  record = report.run_record(
    name,
    chosen.about["config"].run,
    steps=chosen.steps,
    nfe=chosen.evaluations,
    params=chosen.model.parameters,
    scores=found,
    seed=request.seeds[0],
    workdir=str(chosen.path),
    training_step=chosen.about["step"],
    labels=request.labels,
    **chosen.settings(),
    **selection,
  )
  return record, rows[0]


def _choose(
  scorer: Scorer, candidates: Sequence[Subject]
) -> tuple[Subject, dict[str, Any], list[str]]:
  """The best of some subjects, what a record says of it, and warnings."""
  request, num = scorer.request, scorer.num
  few, fresh = min(request.select_num or num, num), max(request.seeds) + 1
  main, by = report.main_space(request.features), request.select_by

  def score(candidate: Subject) -> float:
    _LOG.info("choosing by %d images: %s", few, candidate.settings())
    found, _ = scorer.score(candidate, few, fresh, choice=True)
    return found[by][main]

  warnings = []
  if len(candidates) > 1 and by == "fd" and few < num:
    warnings.append(
      f"chosen by the Fréchet distance of {few} images, fewer than the {num} "
      "of the score: few images favour candidates whose samples vary less, "
      "such as those with more guidance; give --select-num=0 or "
      "--select-by=kid"
    )
    _LOG.warning(warnings[0])
  chosen, table = selection.choose(candidates, score, by)
  if not table:
    return chosen, {}, warnings
  about = {"num": few, "seed": fresh, "by": f"{by} {main}"}
  return chosen, {"selection": {**about, "candidates": table}}, warnings


def _about_reference(scorer: Scorer) -> dict[str, Any]:
  """What the report says of the reference."""
  known, request = scorer.reference, scorer.request
  about = dict(known.about)
  about["labels"] = labels.describe(request.labels, known)
  halves = {
    name: collected
    for name, collected in known.spaces.items()
    if collected.kept is not None
    and len(collected.kept) // 2 > collected.kept.shape[1]
  }
  if halves:
    about |= scores.reference_floor(halves, seed=request.seeds[0])
  for name, collected in known.spaces.items():
    if collected.classes is not None:
      score = collected.classes.score()
      about.setdefault("inception_score", {})[name] = score.mean
  for extractor in scorer.extraction.extractors:
    if isinstance(extractor, ClassifierExtractor):
      about["classifier_accuracy"] = extractor.classifier.accuracy
  return about


def _name(drawn: Subject, records: Sequence[dict[str, Any]]) -> str:
  """What a reader is shown, such as "sCD, 2 steps"; unique in the report."""
  run, steps = NAMES[drawn.about["config"].run], drawn.steps
  nfe = drawn.evaluations
  if drawn.model.kind != "diffusion":
    name = f"{run}, {steps} step{'s' if steps > 1 else ''}"
  else:
    name = f"{run}, {nfe} NFE" if nfe > 1 else f"{run}, 1 step"
  taken = [record["name"] for record in records]
  number = sum(
    other == name or other.startswith(name + " (") for other in taken
  )
  return f"{name} ({number + 1})" if number else name
