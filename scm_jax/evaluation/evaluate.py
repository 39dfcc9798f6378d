"""From a request to `report.json` and `report.png`."""

import contextlib
import dataclasses
import json
import logging
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

from etils import epath

from scm_jax import errors, files
from scm_jax.errors import ConfigError, UserError
from scm_jax.evaluation import reference, selection
from scm_jax.evaluation.composition import Compositions
from scm_jax.evaluation.observers import SampleFile
from scm_jax.evaluation.request import (
  PassOptions,
  Request,
  RuntimeOptions,
  digest,
  file_digest,
)
from scm_jax.evaluation.scoring import Scorer
from scm_jax.evaluation.selection import Choice
from scm_jax.evaluation.subjects import Images, Runs, Subjects
from scm_jax.metrics import extractors, frechet, multihost, registry, streaming
from scm_jax.metrics.extractor import JUDGES, Source
from scm_jax.reporting import evaluation_figure, guidance, records, titles

_LOG = logging.getLogger(__name__)
DEFAULT_NUM = 50_000  # images at most, unless told otherwise: the usual number
FOLDER = "evaluation_partial"  # partial statistics and finished sets


def evaluate(
  request: Request, out: epath.Path, options: RuntimeOptions
) -> dict[str, Any]:
  """Writes `report.json` and `report.png`, and returns the report.

  A report that answers the same request about the same checkpoints is kept. An
  evaluation that was killed resumes from its last saved statistics, and ends
  with the same report to the byte. Several processes, which all must call it,
  share the work; process 0 alone writes what others read.

  Raises:
    UserError: a workdir or the reference cannot be used, processes have
      different requests, or another evaluation works in the folder.
    ConfigError: runs, features and options do not go together.
  """
  _check(request)
  kind = Images if request.images else Compositions if request.then else Runs
  subjects = kind(request)
  known = subjects.choose_reference(request.reference)
  request = dataclasses.replace(request, reference=known)
  asked = _question(request, subjects)
  check_processes(asked, options)
  find_report = lambda: _existing_report(asked, options, out, subjects)
  if existing := multihost.from_process_zero(find_report):
    _LOG.info("%s is up to date", out / "report.json")
    return existing
  if files.is_remote(out):
    raise ConfigError(
      f"--out={out} is in a bucket; write the report to a local folder, and "
      "copy it from there"
    )
  scorer = _make_scorer(request, options, out, subjects)
  selection.check_score(request.grid, scorer)
  with contextlib.ExitStack() as stack:
    lock = files.locked(scorer.folder, "another evaluation")
    multihost.from_process_zero(lambda: bool(stack.enter_context(lock)))
    return _score(asked, out, options, subjects, scorer)


def _score(
  asked: list[Any],
  out: epath.Path,
  options: RuntimeOptions,
  subjects: Subjects,
  scorer: Scorer,
) -> dict[str, Any]:
  """Scores all that was asked for, and writes and returns the report."""
  runs: list[dict[str, Any]] = []
  real = scorer.reference.row
  rows = {} if real is None else {"real images": real}
  if options.save_samples:  # which take the place of that report's
    _set_aside(out / "report.json")
  labelled = True
  for candidates in subjects.groups():
    labelled &= candidates[0].num_classes > 0
    choice = selection.select(candidates, scorer)
    name = _unique_name(choice.best.name, runs)
    saved = {
      seed: _sample_file(out, name, seed, asked)
      for seed in scorer.protocol.seeds
      if options.save_samples
    }
    _LOG.info("scoring %d images for each seed: %s", scorer.num, name)
    scores, rows[name] = scorer.score_seeds(choice.best, saved)
    runs.append(_record(name, choice, scores, scorer))
  shape = tuple(subjects.image_shape)
  rows = {name: row for name, row in rows.items() if row.shape[1:] == shape}
  classes = scorer.picture_classes(candidates[0].num_classes)
  if not labelled or any(len(row) != len(classes) for row in rows.values()):
    classes = []  # runs without classes, or with fewer, are among them

  def write() -> dict[str, Any]:
    known = scorer.describe_reference()
    result = records.make_report(runs, known) | {"asked": asked}
    evaluation_figure.write_figure(
      out / "report.png",
      result,
      rows,
      headings=[str(label) for label in classes],
      title=f"scm_jax on {titles.dataset(known['dataset'])}",
    )
    guidance.write(out, runs)
    # Last, because its presence says that the evaluation is complete.
    _set_aside(out / "report.json")
    records.write_report(out / "report.json", result)
    return result

  result = multihost.from_process_zero(write)
  shutil.rmtree(scorer.folder, ignore_errors=True)
  return result


def _check(request: Request) -> None:
  """Raises ConfigError for features and scores that do not exist."""
  extractors.check(request.features, dict(request.weights))
  by, columns = request.protocol.select_by, registry.columns()
  if by not in columns:
    raise ConfigError(f"--select-by={by}: {errors.hint(by, columns)}")
  main = records.main_space(request.features)
  if request.grid.selects and main in JUDGES:
    raise ConfigError(
      f"--features={main}: these features confirm what others chose, and "
      "nothing is selected by them; add others, such as classifier"
    )


def _question(request: Request, subjects: Subjects) -> list[Any]:
  """Returns the request and digests of weights and files, in JSON's types."""
  state = subjects.marks()
  for name, path in request.weights:
    if not pathlib.Path(path).expanduser().is_file():
      extractors.load(name, path)  # raises an error that says what to fetch
    state.append(file_digest(path))
  if request.reference and reference.is_file(request.reference):
    state.append(file_digest(request.reference))
  return json.loads(json.dumps([request.fields(), state]))


def check_processes(question: list[Any], options: RuntimeOptions) -> None:
  """Raises UserError unless the processes can share the work."""
  digests = list(multihost.all_gather_objects(digest(question)))
  for index, found in enumerate(digests):
    if found != digests[0]:
      raise UserError(
        f"process {index} has another request than process 0, or other "
        "weights: start all with the same command and the same files"
      )
  if options.save_samples and len(digests) > 1:
    raise ConfigError(
      "--save-samples needs a single process, which writes the file; start "
      "only one, or leave the flag out"
    )


def _existing_report(
  question: list[Any],
  options: RuntimeOptions,
  out: epath.Path,
  subjects: Subjects,
) -> dict[str, Any] | None:
  """Returns the report in a folder if it answers the same question."""
  try:
    old = json.loads((out / "report.json").read_text())
    asked = old["asked"]
  except (OSError, ValueError, TypeError, KeyError):
    return None
  if not (out / "report.png").exists() or asked != question:
    return None
  mark = old["reference"].get("fingerprint")  # of a dataset, as it was then
  name = question[0]["reference"] or ""
  if mark and mark != subjects.open_dataset(name).fingerprint():
    _LOG.info("the dataset has changed since %s", out / "report.json")
    return None
  complete = not options.save_samples or all(
    _sample_file(out, run["name"], seed, question).complete()
    for run in old["runs"]
    for seed in run["seeds"]
  )
  return old if complete else None


def _set_aside(report: epath.Path) -> None:
  """Renames a report that another one is about to replace."""
  if report.exists():
    kept = report.with_name("report.previous.json")
    report.replace(kept)
    _LOG.info("the report that was there is now %s", kept)


def _sample_file(
  out: epath.Path, name: str, seed: int, question: list[Any]
) -> SampleFile:
  """Returns the file of a run's samples."""
  stem = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
  path = pathlib.Path(out) / "samples" / f"{stem}_seed_{seed}.npy"
  return SampleFile(path, digest(question))


def _make_scorer(
  request: Request,
  options: RuntimeOptions,
  out: epath.Path,
  subjects: Subjects,
) -> Scorer:
  """Makes the extractors and the reference's statistics."""
  protocol, name = request.protocol, request.reference or ""
  cache = pathlib.Path(options.cache or out / "features")
  training_data = "" if reference.is_file(name) else name
  labelled = lambda: subjects.open_dataset(training_data).everything()
  weights = dict(request.weights)
  source = Source(subjects.image_shape, labelled, weights, cache)
  extraction = streaming.Extraction(extractors.make(request.features, source))
  batch_size = options.batch_size or subjects.batch_size
  passes = PassOptions(batch_size, protocol.keep, options.save_every)
  known = reference.find(name, subjects.open_dataset, extraction, passes, cache)
  for warning in subjects.warnings:
    _LOG.warning(warning)
  warnings = (*known.warnings, *subjects.warnings)
  known = dataclasses.replace(known, warnings=warnings)
  most = min(known.metadata["images"] or DEFAULT_NUM, DEFAULT_NUM)
  num = protocol.num or subjects.count or most
  if not protocol.allow_few:  # before anything is drawn
    for extractor in extraction.extractors:
      frechet.check_enough(
        f"features {extractor.name!r}",
        (num, known.statistics[extractor.name][frechet.MOMENTS.name].n),
        extractor.dim,
      )
  # Selections draw batches of the same size, so that the sampler is compiled
  # once.
  passes = dataclasses.replace(passes, batch_size=min(batch_size, num))
  folder = pathlib.Path(out) / FOLDER
  return Scorer(extraction, known, protocol, passes, folder, num)


def _record(
  name: str, choice: Choice, scores: dict[str, Any], scorer: Scorer
) -> dict[str, Any]:
  """Returns a run's record in the report."""
  warnings = (*scorer.reference.warnings, *choice.warnings, *scores["warnings"])
  # Some candidates' settings name classes of their own.
  drawn: dict[str, Any] = {"labels": scorer.protocol.labels or None}
  drawn |= choice.best.settings()
  return records.run_record(
    name,
    scores=scores | {"warnings": list(warnings)},
    seed=scorer.protocol.seeds[0],
    **choice.best.facts(),
    **drawn,
    **choice.facts,
  )


def _unique_name(name: str, runs: Sequence[dict[str, Any]]) -> str:
  """Returns the name, with a number behind it if a run has it already."""
  taken = [run["name"] for run in runs]
  number = sum(
    other == name or other.startswith(name + " (") for other in taken
  )
  return f"{name} ({number + 1})" if number else name
