"""Tables of scores as text, Markdown and cells for HTML."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from scm_jax.metrics import registry
from scm_jax.metrics.metric import Column
from scm_jax.reporting import guidance, records, score_table, titles

MISSING = "–"


def score(value: Any, digits: int = 3) -> str:
  """Returns a score with some decimals, or two digits of a tiny one."""
  if pd.isna(value):
    return ""
  tiny = 1e-9 < abs(value) < 0.001
  return f"{value:.2g}" if tiny else f"{value:.{digits}f}"


def plus_minus(row: Mapping[str, Any], name: str) -> str:
  """Returns `0.133 ± 0.015`, or the mean alone; "" if there is no score.

  The second is the deviation of repeated measurements; of a single one, its
  standard error if that is known.
  """
  column = registry.columns().get(name, Column(name, name))
  spread: Any = row.get(f"{name}_sd")
  error = row.get(name + records.ERROR)
  numbers: list[Any] = [row.get(name), error if pd.isna(spread) else spread]
  if pd.isna(numbers[0]):
    return ""
  known = [column.scale * number for number in numbers if not pd.isna(number)]
  return " ± ".join(score(number, column.digits) for number in known)


def count(value: Any) -> str:
  """Returns a large number in a few characters: `1.523B`, `217k`."""
  if pd.isna(value):
    return ""
  for unit, suffix in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
    if value >= unit:
      return f"{value / unit:.4g}{suffix}"
  return f"{value:.0f}"


def whole(value: Any) -> str:
  """Returns a whole number with separators: `50,000`."""
  return "" if pd.isna(value) else f"{value:,.0f}"


def cost_cells(row: Mapping[str, Any]) -> dict[str, str]:
  """Returns what a row's samples and its training cost."""
  compute: Any = row.get("effective_compute")
  small = not pd.isna(compute) and compute < 1000
  return {
    "NFE": whole(row.get("nfe")),
    "params": count(row.get("params")),
    "compute": f"{compute:.3g}" if small else whole(compute),
    **{titles.column(key): count(row.get(key)) for key in records.BUDGET},
  }


def setting_cells(row: Mapping[str, Any]) -> dict[str, str]:
  """Returns how a row's samples were drawn, by setting."""
  return {
    titles.column(name): "" if pd.isna(row[name]) else str(row[name])
    for name in records.SETTINGS
  }


def score_cells(
  row: Mapping[str, Any], spaces: Sequence[str], scores: Sequence[str]
) -> dict[str, str]:
  """Returns a row's distances, their ratios to the teacher's, other scores."""
  cells = {}
  for space in spaces:
    head, name = titles.distance(space), f"fd_{space}"
    several = row.get(f"{name}_count", 0) > 1
    cells[head] = plus_minus(row, name)
    cells[f"{head}, min"] = score(row[f"{name}_min"]) if several else ""
    cells[f"{head} / teacher"] = plus_minus(row, f"ratio_{space}")
  return cells | {titles.column(name): plus_minus(row, name) for name in scores}


def filled(rows: Iterable[Mapping[str, str]]) -> pd.DataFrame:
  """Returns a table of the columns in which anything stands."""
  table = pd.DataFrame(list(rows)).fillna("")
  used = [name for name in table if (table[name] != "").any()]
  return table[used].replace("", MISSING)


def text(table: pd.DataFrame) -> str:
  """Returns a table for a terminal, its first column to the left."""
  columns = []
  for number, (name, cells) in enumerate(table.items()):
    width = max(map(len, [name, *cells]))
    justify = str.rjust if number else str.ljust
    columns.append([justify(cell, width) for cell in (name, *cells)])
  return "\n".join(map("  ".join, zip(*columns, strict=True)))


def markdown(table: pd.DataFrame) -> str:
  """Returns a table for a page of documentation, ending with a newline."""
  rows = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
  return "".join(f"{line(row)}\n" for row in rows)


def line(cells: Iterable[str]) -> str:
  """Returns one line of a table in Markdown."""
  return f"| {' | '.join(cells)} |"


def evaluation(report: Mapping[str, Any]) -> str:
  """Returns a report as a plain-text table with notes below it.

  It has a row for each run, and one for the reference's own split halves where
  the report has those: their distance is what a perfect generator would have at
  half the number of samples.
  """
  runs = report["runs"]
  if not runs:
    return "no runs"
  table = summary(runs)
  spaces, scores = score_table.spaces(table), score_table.scores(table)
  rows = table.to_dict("records")
  if "fd" in report["reference"]:
    halves = summary([{"objective": "", **report["reference"]}])
    rows += halves.assign(name="real, split halves").to_dict("records")
  cells = [
    {
      "run": row["name"],
      **cost_cells(row),
      "num": whole(row["num"]),
      **score_cells(row, spaces, scores),
    }
    for row in rows
  ]
  shown = filled(cells)
  return "\n".join([text(shown), *_notes(report, spaces[0], shown.columns)])


def summary(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
  """Returns the flat table of one report's runs, which has no ratios."""
  return score_table.summarize(
    [score_table.Entry(run, training="run", teacher="") for run in runs]
  )


def _notes(
  report: Mapping[str, Any], main: str, columns: Collection[str]
) -> list[str]:
  """Returns what the numbers of a table's columns mean, and warnings."""
  runs = report["runs"]
  notes = [f"Scores other than FD are in {main!r} features."]
  if "compute" in columns:
    notes[0] = f"Compute is parameters (billions) × NFE. {notes[0]}"
  if (seeds := len(runs[0].get("seeds", []))) > 1:
    notes.append(
      f"FD is the mean, standard deviation (n - 1) and minimum over {seeds} "
      "seeds (EDM2 publishes the minimum of several); other scores are means."
    )
  floor = report["reference"].get("fd_floor", {}).get(main)
  if "FD∞" in columns and floor is not None:
    notes.append(
      "FD∞ is extrapolated to infinitely many samples; perfect ones would have "
      f"{score(floor)} against this reference."
    )
  if labels := report["reference"].get("labels"):
    notes.append(f"Classes of the samples: {labels}.")
  notes += filter(None, map(_settings, runs))
  notes += [
    f"{row['name']} at guidance {row['guidance']:g}: FD {score(row['fd'])}, "
    f"precision {score(row['precision'])}, recall {score(row['recall'])}."
    for row in guidance.curves(runs).to_dict("records")
  ]
  warnings = {line for run in runs for line in run.get("warnings", ())}
  return notes + [f"Warning: {line}" for line in sorted(warnings)]


def _settings(run: Mapping[str, Any]) -> str:
  """Returns how a run's samples were drawn, as far as its record says."""
  settings = {key: run.get(key) for key in records.SETTINGS}
  used = [f"{key} {v}" for key, v in settings.items() if v is not None]
  if found := run.get("selection"):
    of = f"{found['num']} other images (seed {found['seed']})"
    used.append(f"chosen by the {found['by']} of {of}")
  return f"{run['name']}: {', '.join(used)}" if used else ""
