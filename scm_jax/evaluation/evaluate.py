"""From a request to `report.json` and `report.png`."""

import dataclasses
import logging
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from scm_jax import errors
from scm_jax.codec import LatentCodec
from scm_jax.errors import ConfigError
from scm_jax.evaluation import question, reference, selection
from scm_jax.evaluation.candidate import Candidate
from scm_jax.evaluation.dataset import ImageDataset
from scm_jax.evaluation.request import PassOptions, Request, RuntimeOptions
from scm_jax.evaluation.scoring import Scorer
from scm_jax.evaluation.selection import Choice
from scm_jax.metrics import extractors, multihost, registry, streaming
from scm_jax.metrics.extractor import Source
from scm_jax.objectives import OBJECTIVES
from scm_jax.reporting import evaluation_figure, records, titles
from scm_jax.sampler import Sampler

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

  Args:
    request: the question.
    out: the folder of the report.
    options: the options of the work.

  Raises:
    UserError: a workdir or the reference cannot be used, or processes have
      different requests.
    ConfigError: runs, features and options do not go together.
  """
  loader = selection.Loader(request.networks)
  request = _check(request, loader)
  asked = question.build(request, loader)
  question.check_processes(asked, options)
  existing = multihost.from_process_zero(
    lambda: question.existing_report(asked, options, out)
  )
  if existing:
    _LOG.info("%s is up to date", out / "report.json")
    return existing
  if "://" in str(out):
    raise ConfigError(
      f"--out={out} is in a bucket; write the report to a local folder, and "
      "copy it from there"
    )
  scorer = _make_scorer(request, options, out, loader)
  selection.check_score(request.grid, scorer)
  runs: list[dict[str, Any]] = []
  rows: dict[str, np.ndarray] = {}
  if scorer.reference.row is not None:
    rows["real images"] = scorer.reference.row
  for candidates in selection.groups(request.grid, loader):
    name = _unique_name(candidates[0], runs)
    choice = selection.select(candidates, scorer)
    files = {
      seed: question.sample_file(out, name, seed)
      for seed in request.protocol.seeds
      if options.save_samples
    }
    _LOG.info("scoring %d images for each seed: %s", scorer.num, name)
    scores, rows[name] = scorer.score_seeds(choice.best, files)
    runs.append(_record(name, choice, scores, scorer))
  classes = scorer.picture_classes(candidates[0].num_classes)

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
    # Last, because its presence says that the evaluation is complete.
    records.write_report(out / "report.json", result)
    return result

  result = multihost.from_process_zero(write)
  shutil.rmtree(scorer.folder, ignore_errors=True)
  return result


def _check(request: Request, loader: selection.Loader) -> Request:
  """Checks a request, and returns it with the reference that it means."""
  grid = request.grid
  extractors.check(request.features, dict(request.weights))
  by, columns = request.protocol.select_by, registry.columns()
  if by not in columns:
    raise ConfigError(f"--select-by={by}: {errors.hint(by, columns)}")
  if request.reference is None:
    _, metadata = loader.load(grid.workdirs[0], grid.ema[0])
    default = metadata["config"].evaluate.reference
    request = dataclasses.replace(request, reference=default)
  selection.check_guidance(grid, loader)
  return request


def _make_scorer(
  request: Request,
  options: RuntimeOptions,
  out: epath.Path,
  loader: selection.Loader,
) -> Scorer:
  """Makes the extractors and the reference's statistics."""
  grid, protocol, name = request.grid, request.protocol, request.reference or ""
  model, metadata = loader.load(grid.workdirs[0], grid.ema[0])
  config = metadata["config"]
  cache = pathlib.Path(options.cache or out / "features")

  def open_dataset(name: str) -> ImageDataset:
    return ImageDataset(config.data, name, model)

  training_data = "" if reference.is_file(name) else name
  source = Source(
    model.image_shape,
    lambda: open_dataset(training_data).everything(),
    dict(request.weights),
    cache,
  )
  extraction = streaming.Extraction(extractors.make(request.features, source))
  batch_size = options.batch_size or config.sample.batch_size
  passes = PassOptions(batch_size, protocol.keep, options.save_every)
  known = reference.find(name, open_dataset, extraction, passes, cache)
  warnings = (*known.warnings, *_preview_warnings(model))
  known = dataclasses.replace(known, warnings=warnings)
  for line in warnings:
    _LOG.warning(line)
  most = min(known.metadata["images"] or DEFAULT_NUM, DEFAULT_NUM)
  num = protocol.num or most
  # Selections draw batches of the same size, so that the sampler is compiled
  # once.
  passes = dataclasses.replace(passes, batch_size=min(batch_size, num))
  folder = pathlib.Path(out) / FOLDER
  return Scorer(extraction, known, protocol, passes, folder, num)


def _preview_warnings(model: Sampler) -> tuple[str, ...]:
  """Returns a warning if samples are not images."""
  codec = model.codec
  if not isinstance(codec, LatentCodec) or codec.autoencoder:
    return ()
  return (
    "there is no autoencoder, so the samples are small previews of latents and "
    "no distance to real images means anything; give --autoencoder=FILE",
  )


def _record(
  name: str, choice: Choice, scores: dict[str, Any], scorer: Scorer
) -> dict[str, Any]:
  """Returns a run's record in the report."""
  best = choice.best
  warnings = (*scorer.reference.warnings, *choice.warnings, *scores["warnings"])
  return records.run_record(
    name,
    best.metadata["config"].run,
    steps=best.steps,
    nfe=best.evaluations,
    params=best.model.parameters,
    scores=scores | {"warnings": list(warnings)},
    seed=scorer.protocol.seeds[0],
    workdir=str(best.path),
    training_step=best.metadata["step"],
    labels=scorer.protocol.labels,
    **best.settings(),
    **choice.facts,
  )


def _unique_name(drawn: Candidate, runs: Sequence[dict[str, Any]]) -> str:
  """Returns a name such as "sCD, 2 steps", which no run has yet."""
  label, steps = OBJECTIVES[drawn.metadata["config"].run].label, drawn.steps
  nfe = drawn.evaluations
  if drawn.model.kind == "diffusion" and nfe > 1:
    name = f"{label}, {nfe} NFE"
  else:
    name = f"{label}, {steps} step{'s' if steps > 1 else ''}"
  taken = [run["name"] for run in runs]
  number = sum(
    other == name or other.startswith(name + " (") for other in taken
  )
  return f"{name} ({number + 1})" if number else name
