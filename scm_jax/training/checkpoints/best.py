"""The average with the best score so far, as an export in `best/`.

An export is plain files, so one process writes it whatever the mesh; `sample`,
`evaluate` and `scm_jax.load` take it like a workdir.

A new one is written beside the one before, which is set aside and removed only
when the new one has taken its place. Whenever the run is killed, one of them is
there, whole, and the run's next start puts it in place.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from etils import epath
from ml_collections import ConfigDict

from scm_jax import configuration, files
from scm_jax.errors import UserError
from scm_jax.interop import export_folder, safetensors
from scm_jax.sampler import Sampler
from scm_jax.training.ema import averaging

FOLDER, SCORE = "best", "score.json"
_NEXT, _PREVIOUS = f"{FOLDER}.partial", f"{FOLDER}.previous"

# Scores of a model whose parameters this process holds whole; the first of
# them, of which less is better, says which is best. All processes call it.
Evaluate = Callable[[Sampler], Mapping[str, float]]


def offer(
  path: epath.Path,
  config: ConfigDict,
  model: Sampler,
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
  put_back(path)
  kept = best(path, name)
  if kept is not None and kept <= score:
    return False
  origin = export_folder.Origin(
    json.loads(configuration.to_json(config)),
    step,
    averaging.name(config.ema[0]),
  )
  record = {"by": name, "score": score, "step": step, "scores": dict(scores)}
  try:
    _write(path / _NEXT, model, origin, record)
    _replace(path)
  except OSError as error:
    raise UserError(
      f"cannot write {path / FOLDER}: {error.strerror or error}"
    ) from error
  return True


def best(path: epath.Path, name: str) -> float | None:
  """This score of what is kept, or None if there is nothing.

  What was chosen by another score has this one beside it, if it was computed.
  """
  try:
    return json.loads((path / FOLDER / SCORE).read_text())["scores"].get(name)
  except (OSError, ValueError, KeyError):
    return None


def put_back(path: epath.Path) -> None:
  """Ends what a killed run had begun: `best/` is there if there ever was one.

  Raises:
    UserError: the workdir cannot be written.
  """
  folder, following, previous = _places(path)
  try:
    if not folder.exists():
      # Its score is written last, so that what has one is whole.
      if (following / SCORE).exists():
        following.rename(folder)
      elif previous.exists():
        previous.rename(folder)
    for rest in (following, previous):
      if rest.exists():
        rest.rmtree()
  except OSError as error:
    raise UserError(
      f"cannot write {folder}: {error.strerror or error}"
    ) from error


def _write(
  folder: epath.Path,
  model: Sampler,
  origin: export_folder.Origin,
  record: Mapping[str, Any],
) -> None:
  """An export and its score, which comes last."""
  folder.mkdir(parents=True)
  weights = export_folder.cast(model.weights, "float32")
  with (folder / export_folder.WEIGHTS).open("wb") as stream:
    safetensors.write(cast(Any, stream), export_folder.flatten(weights))
  about = export_folder.describe(model, origin)
  files.write_text(folder / export_folder.CONFIG, json.dumps(about) + "\n")
  files.write_text(folder / SCORE, json.dumps(record, indent=2) + "\n")


def _replace(path: epath.Path) -> None:
  """The new one takes the place of the one before."""
  folder, following, previous = _places(path)
  if folder.exists():
    folder.rename(previous)
  following.rename(folder)
  if previous.exists():
    previous.rmtree()


def _places(path: epath.Path) -> tuple[epath.Path, epath.Path, epath.Path]:
  return path / FOLDER, path / _NEXT, path / _PREVIOUS
