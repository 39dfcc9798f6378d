"""Keeps the best-scoring EMA weights of a run as an export in `best/`.

An export is a folder of plain files, so one process writes it whatever the
mesh; `sample`, `evaluate` and `scm_jax.load` read it like a workdir.
"""

import json
import logging
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from scm_jax import configuration, files
from scm_jax.interop import export_folder
from scm_jax.sampler import Sampler
from scm_jax.training.ema import averaging

FOLDER, SCORE = "best", "score.json"
# The fields of the config that decide what a score means.
HOW = (
  *("evaluate.num", "evaluate.reference", "evaluate.features"),
  *("sample.t_mid", "sample.gamma", "sample.sigma_max", "sample.guidance"),
  *("sample.solver", "sample.solver_steps", "sample.guidance_interval"),
  "sample.guidance_channels",
  "data.autoencoder",
)

# What was meant before a field was there.
ADDED: dict[str, Any] = {
  "sample.guidance_interval": [],
  "sample.guidance_channels": 0,
}

# Scores a model whose parameters this process holds whole. The first score
# decides which model is best; lower is better. All processes call it.
Evaluate = Callable[[Sampler], Mapping[str, float]]


def keep_if_best(
  workdir: epath.Path,
  config: ConfigDict,
  model: Sampler,
  step: int,
  scores: Mapping[str, float],
) -> bool:
  """Writes `best/`, and returns True, if a model scores better than that there.

  Only the first of the scores decides. The model has the EMA weights of the
  config's first width, after the given step. If `best/` cannot be written, the
  model kept before is still there.
  """
  recover(workdir)
  name, score = next(iter(scores.items()))
  if math.isnan(score):
    logging.warning(f"the score {name} of step {step} is not a number")
    return False
  how = {key: operator.attrgetter(key)(config) for key in HOW}
  how = json.loads(json.dumps(how))  # as it is read back
  kept = kept_score(workdir, name, how)
  if kept is not None and kept <= score:
    return False
  plain = json.loads(configuration.to_json(config))
  origin = export_folder.Origin(plain, step, averaging.name(config.ema[0]))
  record = {"by": name, "score": score, "step": step, "scores": dict(scores)}
  record["how"] = how
  with files.replaced_folder(workdir / FOLDER) as folder:
    weights = export_folder.cast(model.weights, "float32")
    decoder = config.data.autoencoder and files.absolute(
      config.data.autoencoder
    )
    export_folder.write(folder, model.with_weights(weights), origin, decoder)
    files.write_text(folder / SCORE, json.dumps(record, indent=2) + "\n")
  return True


def kept_score(
  workdir: epath.Path, name: str, how: Mapping[str, Any] | None = None
) -> float | None:
  """Returns one score of the model in `best/`; None if there is no such one.

  The name need not be that of the score that chose the model. A score that was
  not taken by the settings `how`, such as the number of samples, says nothing.
  """
  file = workdir / FOLDER / SCORE
  try:
    record = json.loads(file.read_text())
    score = record["scores"].get(name)
  except OSError:
    return None
  except (ValueError, KeyError, TypeError, AttributeError):
    logging.warning(
      f"{file} is damaged; the model there makes way for one that is scored now"
    )
    return None
  # Earlier versions did not note how they scored, and later ones may note more.
  before, now = record.get("how") or {}, how or {}
  if before:
    before = ADDED | before
  if score is not None and any(before.get(k, v) != v for k, v in now.items()):
    logging.warning(
      f"{file} has a score of other settings of config.evaluate or "
      "config.sample; the model there makes way for one that is scored now"
    )
    return None
  return score


def recover(workdir: epath.PathLike) -> None:
  """Rolls back an update of `best/` that a kill interrupted."""
  folder = epath.Path(workdir) / FOLDER
  previous = folder.with_name(f"{FOLDER}.previous")  # as versions up to 0.1 did
  if previous.exists() and not folder.exists():
    previous.rename(folder)
  files.recover_folder(folder)
