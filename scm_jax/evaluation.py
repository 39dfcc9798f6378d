"""Evaluation: draws from models, scores against a dataset, writes a report.

Joins the rooms of the third floor: models come from workdirs, references from
the data room, scores and pictures from the metrics room.
"""

import dataclasses
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from scm_jax.data import sources
from scm_jax.errors import UserError
from scm_jax.metrics import features, figure, report, scores
from scm_jax.model import Model
from scm_jax.training import workdir

NAMES = {"teacher": "teacher", "sct": "sCT", "scd": "sCD"}


@dataclasses.dataclass(frozen=True)
class Request:
  """What to evaluate; equal requests give equal reports.

  Attributes:
    workdirs: trained runs, shown in this order.
    steps: of students.
    teacher_steps: of teachers' solvers; `n` Heun steps are `2 n - 1`
      evaluations.
    num: images for each run; 0 is as many as the reference has.
    seed: of the samples.
    guidance: the scale.
    sigma_rel: width of the weight average; 0 is each config's first.
    reference: `name` or `name:split` of a TFDS dataset; "" is the first
      workdir's training data.
    features: feature spaces, of `features.NAMES`.
  """

  workdirs: tuple[str, ...]
  steps: tuple[int, ...] = (1, 2)
  teacher_steps: tuple[int, ...] = (32, 1)
  num: int = 0
  seed: int = 0
  guidance: float = 1.0
  sigma_rel: float = 0.0
  reference: str = ""
  features: tuple[str, ...] = ("classifier", "pixels")


def evaluate(request: Request, out: epath.Path) -> dict[str, Any]:
  """Writes `report.json` and `report.png` into `out`; returns the report.

  A report that answers the same request about the same checkpoints is kept.

  Raises:
    UserError: a workdir or the reference cannot be used.
    ConfigError: the runs or the features do not go together.
  """
  loaded = [workdir.load(path, request.sigma_rel) for path in request.workdirs]
  # A run that was trained anew in the same folder has the same step.
  state = [
    (about["step"], about["ema"], workdir.checksum(model.params))
    for model, about in loaded
  ]
  asked = json.loads(json.dumps([dataclasses.asdict(request), state]))
  if kept := _kept(out / "report.json", asked):
    logging.info("%s is up to date", out / "report.json")
    return kept

  data = loaded[0][1]["config"].data.copy_and_resolve_references()
  images, labels = read_reference(data, request.reference, loaded[0][0])
  extractors = features.make_extractors(
    request.features, images, labels, _cache(out)
  )
  logging.info("reference: %d images of %s", len(images), data.name)
  known = scores.extract(images, extractors)
  num = request.num or len(images)
  wanted = np.resize(labels, num)
  if data.num_classes:
    classes = [c for c in range(data.num_classes) if (labels == c).any()][:10]
  else:
    classes = []

  records, rows = [], {"real images": _row(images, labels, classes)}
  for (model, about), path in zip(loaded, request.workdirs, strict=True):
    for steps in _steps(model, request):
      config = about["config"]
      name = _name(config.run, model, steps, request, records)
      logging.info("drawing and scoring %d images: %s", num, name)
      drawn = model.sample(
        wanted if data.num_classes else None,
        num=num,
        steps=steps,
        seed=request.seed,
        guidance=request.guidance,
        batch_size=config.sample.batch_size,
      )
      records.append(
        report.run_record(
          name,
          config.run,
          steps=steps,
          nfe=model.evaluations(steps, request.guidance),
          params=model.parameters,
          scores=scores.score(drawn, known, extractors, seed=request.seed),
          seed=request.seed,
          workdir=str(path),
          training_step=about["step"],
          ema=about["ema"],
          guidance=request.guidance,
        )
      )
      rows[name] = _row(drawn, wanted, classes)

  floor = scores.reference_floor(known, extractors, seed=request.seed)
  reference = floor | {
    "dataset": data.name,
    "split": data.split,
    "images": len(images),
    "labels": "as in the reference",
  }
  for extractor in extractors:
    if isinstance(extractor, features.ClassifierExtractor):
      reference["classifier_accuracy"] = extractor.classifier.accuracy
  result = report.make_report(records, reference) | {"asked": asked}
  figure.write_figure(
    out / "report.png",
    result,
    rows,
    headings=[str(c) for c in classes],
    title=f"scm_jax on {data.name}",
  )
  # Last, because its presence says that the evaluation is complete.
  report.write_report(out / "report.json", result)
  return result


def _kept(path: epath.Path, asked: Any) -> dict[str, Any] | None:
  """The report at `path` if it answers the same question."""
  try:
    old = json.loads(path.read_text())
  except (OSError, ValueError):
    return None
  complete = (path.parent / "report.png").exists()
  return old if complete and old.get("asked") == asked else None


def _cache(out: epath.Path) -> epath.Path:
  """Where trained classifiers are kept: beside the report."""
  return out / "features"


def read_reference(
  data: ConfigDict, reference: str, model: Model
) -> tuple[np.ndarray, np.ndarray]:
  """All images and labels of the reference dataset.

  Args:
    data: the training data's section; its name and split are replaced.
    reference: `name` or `name:split`, or "" for the training data.
    model: makes images of latents as it does of its samples.
  """
  if reference:
    data.name, _, split = reference.partition(":")
    data.split = split or data.split
  elif not data.name:
    raise UserError(
      "an imported network has no data of its own; name what to compare with: "
      "--reference=NAME[:SPLIT]"
    )
  source = sources.open_source(data)
  elements = [source[i] for i in range(len(source))]
  images = np.stack([element["image"] for element in elements])
  labels = np.asarray([element["label"] for element in elements])
  if data.kind == "latents":
    images = _decode(images, model)
  return images, labels


def _decode(stored: np.ndarray, model: Model, batch: int = 256) -> np.ndarray:
  """Stored latents, one draw of each, as images."""
  images = []
  for start in range(0, len(stored), batch):
    key = jax.random.fold_in(jax.random.key(0), start)
    x0 = model.codec.encode(jnp.asarray(stored[start : start + batch]), key)
    images.append(np.asarray(model.codec.decode(x0, model.decoder)))
  return np.concatenate(images)


def _steps(model: Model, request: Request) -> Iterable[int]:
  return request.steps if model.consistency else request.teacher_steps


def _name(
  run: str,
  model: Model,
  steps: int,
  request: Request,
  records: Sequence[dict[str, Any]],
) -> str:
  """What a reader is shown, such as "sCD, 2 steps"; unique in the report."""
  nfe = model.evaluations(steps, request.guidance)
  if model.consistency:
    name = f"{NAMES[run]}, {steps} step{'s' if steps > 1 else ''}"
  else:
    name = f"{NAMES[run]}, {nfe} NFE" if nfe > 1 else f"{NAMES[run]}, 1 step"
  taken = [record["name"] for record in records]
  number = sum(
    other == name or other.startswith(name + " (") for other in taken
  )
  return f"{name} ({number + 1})" if number else name


def _row(
  images: np.ndarray, labels: np.ndarray, classes: Sequence[int]
) -> np.ndarray:
  """One row of the figure: an image of each class, or just the first ten."""
  if not classes:
    return images[:10]
  return figure.pick_by_label(images, labels, classes)
