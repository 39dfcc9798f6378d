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
# What a record says of how its samples were drawn, beside steps; an older one
# may lack some.
SETTINGS = ("guidance", "ema", "t_mid", "solver", "sigma_max", "dtype")


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


def main_space(names: Sequence[str]) -> str:
  """The feature space to show where there is room for one: not the pixels."""
  return next((name for name in names if name != "pixels"), names[0])


def main_features(report: Mapping[str, Any]) -> str:
  """The `main_space` of a report."""
  return main_space(list(report["runs"][0]["fd"]))


def format_table(report: Mapping[str, Any]) -> str:
  """A report as a plain-text table, ending without a newline.

  One row per run and one for the reference's own split halves. Fréchet
  distances are given for every feature space, over several seeds as mean, sd
  and minimum; the other scores for the main one. What is missing is shown as
  "-". Warnings follow.
  """
  runs = report["runs"]
  if not runs:
    return "no runs"
  floor = report["reference"]
  rows = [(run["name"], run) for run in runs]
  if "fd" in floor:
    rows.append(("real, split halves", floor))
  columns = [
    ("run", [name for name, _ in rows]),
    ("NFE", [str(row.get("nfe", "-")) for _, row in rows]),
    ("params", [_count(row.get("params")) for _, row in rows]),
    ("compute", [_short(row.get("effective_compute")) for _, row in rows]),
    ("num", [str(row.get("num", "-")) for _, row in rows]),
    *_score_columns(runs, [row for _, row in rows]),
  ]
  widths = [max(len(head), *map(len, cells)) for head, cells in columns]
  head = [head for head, _ in columns]
  rule = ["-" * width for width in widths]
  body = zip(*(cells for _, cells in columns), strict=True)
  lines = [_line(row, widths) for row in (head, rule, *body)]
  return "\n".join([*lines, *_notes(report)])


def _score_columns(
  runs: Sequence[Record], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[str, list[str]]]:
  """Heads and cells of all scores."""

  def column(head, metric, space, scale=1.0):
    values = [row.get(metric, {}).get(space) for row in rows]
    return head, [
      _number(None if value is None else scale * value) for value in values
    ]

  spaces = list(runs[0]["fd"])
  main, several = main_space(spaces), any("fd_min" in run for run in runs)
  columns = []
  for space in spaces:
    if not several:
      columns.append(column(f"FD {space}", "fd", space))
      continue
    columns.append(column(f"FD {space} mean", "fd", space))
    columns.append(column("sd", "fd_sd", space))
    columns.append(column("min", "fd_min", space))
  columns.append(column("KID x1000", "kid", main, 1000.0))
  columns += [
    column(metric, metric, main)
    for metric in ("precision", "recall", "density", "coverage")
  ]
  if any("inception_score" in run for run in runs):
    columns.append(column("IS", "inception_score", main))
  return columns


def _notes(report: Mapping[str, Any]) -> list[str]:
  """What the table's figures mean, and what to beware of."""
  runs, main = report["runs"], main_features(report)
  notes = [
    f"KID, precision, recall, density, coverage and IS in {main!r} features; "
    "compute is parameters (billions) x NFE"
  ]
  if any("fd_min" in run for run in runs):
    seeds = runs[0]["seeds"]
    notes.append(
      f"over {len(seeds)} seeds: mean, standard deviation and minimum of FD "
      "(EDM2 publishes the minimum of several); means of the rest"
    )
  if labels := report["reference"].get("labels"):
    notes.append(f"classes of the samples: {labels}")
  notes += filter(None, map(_settings, runs))
  warnings = {line for run in runs for line in run.get("warnings", ())}
  return notes + [f"beware: {line}" for line in sorted(warnings)]


def _settings(run: Mapping[str, Any]) -> str:
  """How a run's samples were drawn, as far as its record says."""
  used = [f"{key} {run[key]}" for key in SETTINGS if run.get(key) is not None]
  if found := run.get("selection"):
    used.append(
      f"chosen by {found['by']} of {found['num']} other images (seed "
      f"{found['seed']})"
    )
  return f"{run['name']}: {', '.join(used)}" if used else ""


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.3f}"


def _short(value: float | None) -> str:
  return "-" if value is None else f"{value:.3g}"


def _count(value: int | None) -> str:
  """A number of parameters in at most five characters or so: 1.53B, 217k."""
  if value is None:
    return "-"
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
