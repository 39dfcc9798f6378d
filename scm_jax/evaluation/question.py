"""What a report depends on, so that one is not made twice.

A report keeps its question: the request, and fingerprints of all weights and
files. A report with the same question is kept as it is.
"""

import json
import pathlib
import re
from typing import Any

from etils import epath

from scm_jax.errors import ConfigError, UserError
from scm_jax.evaluation import reference, selection
from scm_jax.evaluation.request import (
  Request,
  RuntimeOptions,
  digest,
  file_digest,
)
from scm_jax.metrics import multihost, pretrained


def build(request: Request, loader: selection.Loader) -> list[Any]:
  """Returns everything that a report depends on, in JSON's types."""
  files = []
  for name, path in request.weights:
    if not pathlib.Path(path).expanduser().is_file():
      pretrained.load(name, path)  # raises an error that says what to fetch
    files.append(file_digest(path))
  if request.reference and reference.is_file(request.reference):
    files.append(file_digest(request.reference))
  state = [*selection.weights_state(request.grid, loader), *files]
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


def existing_report(
  question: list[Any], options: RuntimeOptions, out: epath.Path
) -> dict[str, Any] | None:
  """Returns the report in a folder if it answers the same question."""
  try:
    old = json.loads((out / "report.json").read_text())
  except (OSError, ValueError):
    return None
  if not (out / "report.png").exists() or old.get("asked") != question:
    return None
  samples = [
    sample_file(out, run["name"], seed)
    for run in old["runs"]
    for seed in run["seeds"]
  ]
  if options.save_samples and not all(file.exists() for file in samples):
    return None
  return old


def sample_file(out: epath.Path, name: str, seed: int) -> pathlib.Path:
  """Returns the file of a run's samples."""
  stem = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
  return pathlib.Path(out) / "samples" / f"{stem}_seed_{seed}.npy"
