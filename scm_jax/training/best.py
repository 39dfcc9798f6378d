"""The average with the best score so far, as an export in `best/`.

An export is plain files, so one process writes it whatever the mesh; `sample`,
`evaluate` and `scm_jax.load` take it like a workdir.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from etils import epath
from ml_collections import ConfigDict

from scm_jax import configuration, files
from scm_jax.errors import UserError
from scm_jax.interop import export_folder, safetensors
from scm_jax.model import Model
from scm_jax.training import ema

FOLDER, SCORE = "best", "score.json"

# Scores of a model whose parameters this process holds whole; the first of
# them, of which less is better, says which is best.
Evaluate = Callable[[Model], Mapping[str, float]]


def offer(
  path: epath.Path,
  config: ConfigDict,
  model: Model,
  step: int,
  scores: Mapping[str, float],
) -> bool:
  """Keeps a model if its first score is less than that of the one kept.

  Args:
    path: of the workdir.
    config: of the run.
    model: of its first average.
    step: of the average.
    scores: of the model.

  Returns:
    Whether it is the best so far.

  Raises:
    UserError: it cannot be written; the one before is still there.
  """
  name, score = next(iter(scores.items()))
  kept = best(path)
  if kept is not None and kept <= score:
    return False
  origin = export_folder.Origin(
    json.loads(configuration.to_json(config)), step, ema.name(config.ema[0])
  )
  folder, partial = path / FOLDER, path / f"{FOLDER}.partial"
  try:
    if partial.exists():
      partial.rmtree()
    partial.mkdir(parents=True)
    weights = export_folder.cast(model.weights, "float32")
    with (partial / export_folder.WEIGHTS).open("wb") as stream:
      safetensors.write(cast(Any, stream), export_folder.flatten(weights))
    about = export_folder.describe(model, origin)
    files.write_text(partial / export_folder.CONFIG, json.dumps(about) + "\n")
    record = {"by": name, "score": score, "step": step, "scores": dict(scores)}
    files.write_text(partial / SCORE, json.dumps(record, indent=2) + "\n")
    if folder.exists():
      folder.rmtree()
    partial.rename(folder)
  except OSError as error:
    raise UserError(
      f"cannot write {folder}: {error.strerror or error}"
    ) from error
  return True


def best(path: epath.Path) -> float | None:
  """The score of what is kept, or None if there is nothing."""
  try:
    return json.loads((path / FOLDER / SCORE).read_text())["score"]
  except (OSError, ValueError, KeyError):
    return None
