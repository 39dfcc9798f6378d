"""The evaluation report: records of runs, `report.json`, and a text table.

`report.json` is `{"runs": [record, ...], "reference": {...}}`. Every record
says how the samples were made (`name`, `objective`, `steps`, `nfe`, `params`,
`num`, `seed`, `effective_compute`) and how they score (`fd`, and where they
were computed `kid`, `precision`, `recall`, each by feature name).
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from scm_jax import files

Record = dict[str, Any]


def run_record(
  name: str,
  objective: str,
  *,
  steps: int,
  nfe: int,
  params: int,
  scores: Mapping[str, Any],
  seed: int,
  **extra: Any,
) -> Record:
  """One entry of a report's `runs`.

  Args:
    name: what a reader is shown, such as "sCD, 2 steps"; unique in a report.
    objective: what the network was trained for: "teacher", "sct", "scd", ...
    steps: sampling steps.
    nfe: network evaluations for one sample, guidance included.
    params: number of parameters of the network that samples.
    scores: what `scores.score` returned; needs "fd" and "num".
    seed: of the samples.
    **extra: anything else worth keeping (guidance, training step, ...).

  Returns:
    The record. Its `effective_compute` is parameters (in billions) times
    network evaluations, as in figure 1 of arXiv:2410.11081.
  """
  for key in ("fd", "num"):
    if key not in scores:
      raise ValueError(f"scores of {name!r} lack {key!r}")
  return {
    "name": name,
    "objective": objective,
    "steps": int(steps),
    "nfe": int(nfe),
    "params": int(params),
    "effective_compute": params / 1e9 * nfe,
    "seed": int(seed),
    **scores,
    **extra,
  }


def make_report(
  runs: Sequence[Record], reference: Mapping[str, Any]
) -> dict[str, Any]:
  """The content of `report.json`.

  Args:
    runs: records, in the order in which they are to be shown.
    reference: what is known of the reference: the result of
      `scores.reference_floor`, the data's name, the classifier's accuracy.
  """
  names = [run["name"] for run in runs]
  if len(set(names)) < len(names):
    raise ValueError(f"names of runs must differ: {names}")
  return {"runs": list(runs), "reference": dict(reference)}


def write_report(
  path: str | os.PathLike[str], report: Mapping[str, Any]
) -> os.PathLike[str]:
  """Writes a report as JSON, atomically.

  Raises:
    UserError: the file cannot be written.
    ValueError: a number is not finite (JSON has no such numbers).
  """
  text = json.dumps(report, indent=2, allow_nan=False)
  return files.write_bytes(path, text.encode() + b"\n")


def main_features(report: Mapping[str, Any]) -> str:
  """The feature space to show where there is room for one: not the pixels."""
  names = list(report["runs"][0]["fd"])
  return next((name for name in names if name != "pixels"), names[0])


def format_table(report: Mapping[str, Any]) -> str:
  """A report as a plain-text table, ending without a newline.

  One row per run and one for the reference's own split halves. Fréchet
  distances are given for every feature space, the other scores for the main
  one; what is missing is shown as "-".
  """
  if not report["runs"]:
    return "no runs"
  features = list(report["runs"][0]["fd"])
  main = main_features(report)
  head = ["run", "NFE", "params", "compute", "num"]
  head += [f"FD {name}" for name in features]
  head += ["KID x1000", "precision", "recall"]
  rows = [
    [
      run["name"],
      str(run["nfe"]),
      _count(run["params"]),
      f"{run['effective_compute']:.3g}",
      str(run["num"]),
      *_score_cells(run, features, main),
    ]
    for run in report["runs"]
  ]
  floor = report["reference"]
  if "fd" in floor:
    cells = _score_cells(floor, features, main)
    size = str(floor.get("num", "-"))
    rows.append(["real, split halves", "-", "-", "-", size, *cells])
  widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
  rule = ["-" * width for width in widths]
  lines = [_line(row, widths) for row in (head, rule, *rows)]
  note = f"KID, precision and recall in {main!r} features; compute is "
  return "\n".join([*lines, note + "parameters (billions) x NFE"])


def _score_cells(
  scores: Mapping[str, Any], features: Sequence[str], main: str
) -> list[str]:
  """Formatted scores of one row."""
  kid = scores.get("kid", {}).get(main)
  return [
    *(_number(scores["fd"].get(name)) for name in features),
    _number(None if kid is None else 1000 * kid),
    _number(scores.get("precision", {}).get(main)),
    _number(scores.get("recall", {}).get(main)),
  ]


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.3f}"


def _count(value: int) -> str:
  """A number of parameters in at most five characters or so: 1.53B, 217k."""
  for unit, suffix in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
    if value >= unit:
      return f"{value / unit:.3g}{suffix}"
  return str(value)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
  """The first column to the left, the numbers to the right."""
  first = cells[0].ljust(widths[0])
  rest = [
    cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)
  ]
  return "  ".join([first, *rest])
