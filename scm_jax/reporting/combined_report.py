"""The folder that `scm-jax report` writes from the reports of many runs."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
from etils import epath

from scm_jax import files, spelling
from scm_jax.errors import ConfigError, UserError
from scm_jax.reporting import (
  charts,
  objectives,
  page,
  published,
  reading,
  records,
  statistics,
  summary,
)
from scm_jax.reporting.statistics import Entry

COMPUTE, SIZE = "quality_compute.png", "size.png"
TABLE, PAGE = "rows.csv", "report.html"
SUMMARY = "summary"  # the key that an evaluation's own report does not have


class Written(NamedTuple):
  """What was written.

  Attributes:
    files: paths, in the order in which the files appeared.
    rows: the rows of the table.
    missing: sentences that say what the charts lack.
  """

  files: tuple[str, ...]
  rows: pd.DataFrame
  missing: list[str]


def write(
  workdirs: Sequence[str],
  reports: Sequence[str],
  out: str,
  results: str = "imagenet512",
  features: Sequence[str] = (),
) -> Written:
  """Writes the charts, `report.json`, the CSV and the page into a folder.

  Args:
    workdirs: evaluated runs, or a sweep's folder.
    reports: `report.json` files.
    out: the folder.
    results: which published results to show; see `published.load`.
    features: feature spaces that the charts show; by default the main one.

  Raises:
    ConfigError: there are no such published results or features.
    UserError: a run was not evaluated, a file is damaged, or `out` is an
      evaluation's folder.
  """
  theirs = published.load(results)
  folder = epath.Path(out)
  _check_free(folder / reading.REPORT)
  entries = reading.read(workdirs, reports)
  if not any(entry.record["fd"] for entry in entries):
    raise UserError("the reports contain no Fréchet distances")
  rows = summary.summarize(entries)
  spaces = statistics.spaces(rows)
  for name in features:
    if name not in spaces:
      hint = spelling.hint(name, spaces, "the reports have")
      raise ConfigError(f"--features={name}: {hint}")
  panels = charts.panels(rows, features or spaces[:1])
  pictures = {
    COMPUTE: charts.draw_compute(panels, theirs),
    SIZE: charts.draw_sizes(panels),
  }
  missing = _missing(rows)
  html = page.render([*pictures.values()], rows, theirs, entries, missing)
  for name, png in pictures.items():
    files.write_bytes(folder / name, png)
  files.write_text(folder / TABLE, to_csv(rows, theirs))
  records.write_report(folder / reading.REPORT, merge(entries, rows))
  files.write_text(folder / PAGE, html)
  names = (*pictures, TABLE, reading.REPORT, PAGE)
  return Written(tuple(str(folder / name) for name in names), rows, missing)


def merge(entries: Sequence[Entry], rows: pd.DataFrame) -> dict[str, Any]:
  """Returns all records as one report, with the rows as its `summary`.

  Names of runs that occur twice get their folder's name in front. `reference`
  is what all files say of it; where they differ, `references` has each.
  """
  runs = [
    {**entry.record, "name": name, "dataset": entry.dataset}
    for entry, name in zip(entries, _unique_names(entries), strict=True)
  ]
  known = {json.dumps(e.reference, sort_keys=True): e for e in entries}
  common = dict(entries[0].reference) if len(known) == 1 else {}
  merged = records.make_report(runs, common)
  references = [
    {**entry.reference, "source": entry.source}
    for entry in known.values()
    if entry.reference
  ]
  if references and len(known) > 1:
    merged["references"] = references
  spaces, scores = statistics.spaces(rows), statistics.scores(rows)
  merged[SUMMARY] = [
    _nested(row, spaces, scores) for row in rows.to_dict("records")
  ]
  return _finite(merged)


def to_csv(rows: pd.DataFrame, results: pd.DataFrame) -> str:
  """Returns every row, ours and published ones; missing cells are empty."""
  theirs = results.assign(
    origin="published", run=results.method, in_series=results.series != ""
  )
  theirs["params"] = theirs.params.round().astype("Int64")
  theirs["nfe"] = theirs.nfe.round().astype("Int64")
  ours = rows.assign(
    origin="this project", source=[" ".join(s) for s in rows.sources]
  )
  spaces = dict.fromkeys(statistics.spaces(rows))
  if len(results):
    spaces |= {"inception": None}
  if results.fd_dinov2.notna().any():
    spaces |= {"dinov2": None}
  names = ["origin", "run", "dataset", "objective", "steps", "nfe", "params"]
  names += ["effective_compute", *records.SETTINGS, "num", "trainings"]
  for space in spaces:
    names += [f"fd_{space}{end}" for end in ("", "_sd", "_min")]
    names += [f"ratio_{space}{end}" for end in ("", "_sd")]
  names += [*statistics.scores(rows), "in_series", "source", "note"]
  parts = [
    part.reindex(columns=names).astype(object) for part in (ours, theirs)
  ]
  return csv_text(pd.concat(parts))


def csv_text(table: pd.DataFrame) -> str:
  """Returns a table as CSV, numbers to six digits."""
  digits = lambda value: f"{value:.6g}" if isinstance(value, float) else value
  cells = table.astype(object).map(digits, na_action="ignore")
  return cells.to_csv(index=False, lineterminator="\n")


def _check_free(file: epath.Path) -> None:
  """Raises UserError if a file is the report of an evaluation."""
  try:
    known = json.loads(file.read_text())
  except (OSError, ValueError):
    return
  if not isinstance(known, dict) or SUMMARY not in known:
    raise UserError(
      f"{file} was written by an evaluation and is not replaced; choose "
      "another --out"
    )


def _missing(rows: pd.DataFrame) -> list[str]:
  """Returns sentences that name the runs which the charts lack."""
  students = ~rows.objective.map(objectives.is_teacher).astype(bool)
  ratios = [name for name in rows if name.startswith("ratio_")]
  alone = rows[students & rows.reindex(columns=ratios).isna().all(axis=1)]
  unknown = rows[rows.effective_compute.isna()]
  notes = []
  if len(alone):
    notes.append(
      "No ratio, because the teacher's score is not among the reports: "
      f"{', '.join(dict.fromkeys(alone.run))}."
    )
  if len(unknown):
    notes.append(
      "Not in the charts, because parameters or evaluations are not known: "
      f"{', '.join(dict.fromkeys(unknown.run))}."
    )
  return notes


def _unique_names(entries: Sequence[Entry]) -> list[str]:
  """Returns a name for each record that no other has."""
  names = [str(entry.record.get("name") or "run") for entry in entries]
  often = Counter(names)
  result: list[str] = []
  for name, entry in zip(names, entries, strict=True):
    folder = entry.training.rstrip("/").rpartition("/")[2]
    if often[name] > 1 and folder:
      name = f"{folder}: {name}"
    unique, number = name, 1
    while unique in result:
      number += 1
      unique = f"{name} ({number})"
    result.append(unique)
  return result


def _nested(
  row: dict[str, Any], spaces: Sequence[str], scores: Sequence[str]
) -> dict[str, Any]:
  """Returns a row as `report.json` has it."""

  def by_space(kind: str) -> dict[str, dict[str, float]]:
    ends = {"mean": "", "sd": "_sd", "least": "_min", "count": "_count"}
    return {
      space: {key: row[f"{kind}_{space}{end}"] for key, end in ends.items()}
      for space in spaces
      if not pd.isna(row.get(f"{kind}_{space}"))
    }

  about = ("run", "dataset", "objective", "steps", "nfe", "params")
  settings = [name for name in records.SETTINGS if not pd.isna(row[name])]
  return {
    **{name: row[name] for name in (*about, "effective_compute")},
    **{name: row[name] for name in settings},
    **{name: row[name] for name in ("num", "trainings")},
    "fd": by_space("fd"),
    "ratio": by_space("ratio"),
    **{name: row[name] for name in scores if not pd.isna(row[name])},
    "in_series": bool(row["in_series"]),
    "sources": row["sources"],
  }


def _finite(value: Any) -> Any:
  """Returns a value with None for numbers that JSON does not have."""
  if isinstance(value, dict):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(item) for item in value]
  if value is pd.NA or (
    isinstance(value, float) and not abs(value) < float("inf")
  ):
    return None
  return value
