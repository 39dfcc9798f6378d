"""Records of evaluated runs, and the file `report.json` that holds them.

`report.json` is `{"runs": [record, ...], "reference": {...}}`. A record says
how its samples were made (`name`, `objective`, `steps`, `nfe`, `params`, `num`,
`seed`, `effective_compute`, and those of `SETTINGS` that apply) and how they
score: `fd` and other scores, each as `{features: value}`.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from scm_jax import files
from scm_jax.metrics.extractor import JUDGES
from scm_jax.reporting import titles

Record = dict[str, Any]
# How samples were drawn, beside their steps; older records may lack some.
SETTINGS = (
  "guidance",
  "guidance_interval",
  "guidance_channels",
  "ema",
  "t_mid",
  "times",
  "gamma",
  "solver",
  "sigma_max",
  "dtype",
  "labels",
)
# What a training cost, in evaluations of its networks; older records lack them.
BUDGET = ("training_evaluations", "evaluations_per_sample")
ERROR = "_se"  # the ending of a standard error's key
# Endings of keys that describe a score's spread and are no scores themselves.
_SPREAD = ("_sd", ERROR, "_min", "_whole")


def run_record(
  name: str,
  objective: str,
  *,
  nfe: int | None,
  params: int | None,
  scores: Mapping[str, Any],
  **about: Any,
) -> Record:
  """Returns one entry of a report's `runs`.

  Its `effective_compute` is the number of parameters (in billions) times
  network evaluations, as in figure 1 of arXiv:2410.11081.

  The name is what a reader is shown, such as "sCD, 2 steps". `nfe` are the
  network evaluations for one sample, guidance included, and `params` the
  parameters of the network that samples; either is None if unknown. The scores
  are those of `metrics.scores.score`; `about` is all else, such as `steps`.
  """
  for key in ("fd", "num"):
    if key not in scores:
      raise ValueError(f"the scores of {name!r} lack {key!r}")
  return {
    "name": name,
    "objective": objective,
    "nfe": nfe,
    "params": params,
    "effective_compute": compute(params, nfe),
    **scores,
    **about,
  }


def make_report(
  runs: Sequence[Record], reference: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the content of `report.json`.

  The runs are in the order in which they are shown. The reference is what is
  known of it: the result of `metrics.scores.reference_floor`, the dataset's
  name, the classifier's accuracy.
  """
  names = [run["name"] for run in runs]
  if len(set(names)) < len(names):
    raise ValueError(f"the names of a report's runs must differ: {names}")
  return {"runs": list(runs), "reference": dict(reference)}


def write_report(
  path: str | os.PathLike[str], report: Mapping[str, Any]
) -> os.PathLike[str]:
  """Writes a report as JSON, atomically.

  Numbers must be finite, because JSON has no others; ValueError otherwise.
  """
  text = json.dumps(report, indent=2, allow_nan=False)
  return files.write_text(path, text + "\n")


def compute(params: float | None, nfe: float | None) -> float | None:
  """Returns billions of parameters times network evaluations."""
  return None if params is None or nfe is None else params / 1e9 * nfe


def main_space(names: Iterable[str]) -> str:
  """Returns the feature space to show where there is room for only one.

  It is the first of the lowest `rank`; "" if there are none.
  """
  return min(names, key=rank, default="")


def rank(space: str) -> int:
  """Returns a feature space's place: 0, after which pixels, then judges."""
  return 2 if space in JUDGES else int(space == "pixels")


def score_names(record: Mapping[str, Any]) -> list[str]:
  """Returns the scores other than `fd` that a record has by feature space."""
  return [
    key
    for key, value in record.items()
    if key not in ("fd", "fd_floor")
    and not key.endswith(_SPREAD)
    and isinstance(value, Mapping)
    and all(item is None or is_number(item) for item in value.values())
  ]


def is_number(value: Any) -> TypeGuard[float]:
  """Returns whether a value of a JSON file is a number."""
  return isinstance(value, int | float) and not isinstance(value, bool)


def describe(record: Mapping[str, Any]) -> dict[str, Any]:
  """Returns how a record's samples were made, without its scores.

  Counts that are missing, or no positive numbers, are None.
  """

  def count(key: str) -> int | None:
    value = record.get(key)
    known = is_number(value) and 0 < value < float("inf")
    return int(value) if known else None

  objective, steps, nfe = record["objective"], count("steps"), count("nfe")
  return {
    "name": record.get("name"),
    "objective": objective,
    "series": titles.series_title(objective, steps, nfe),
    "steps": steps,
    "nfe": nfe,
    "params": count("params"),
    "effective_compute": compute(count("params"), nfe),
    **{key: count(key) for key in BUDGET},
    **{key: record.get(key) for key in SETTINGS},
    "num": count("num"),
  }
