"""The folder that `scm-jax report` writes from the reports of many runs."""

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
from etils import epath

from scm_jax import errors, files
from scm_jax.errors import ConfigError, UserError
from scm_jax.reporting import (
  charts,
  guidance,
  page,
  published,
  reading,
  records,
  score_table,
  summary,
  titles,
)
from scm_jax.reporting.score_table import Entry

COMPUTE, SIZE = "quality_compute.png", "size.png"
TRAINING = "quality_training.png"
TABLE, PAGE = "rows.csv", "report.html"
# Columns of tables that the CSV leaves out.
_DRAWN = ("name", "series", "label", "color", "marker", "method")
_HIDDEN = (*_DRAWN, "sources", "contradicted", "params_millions", "fid", "fdd")
# What a row of the summary says before its scores.
_COST = ("steps", "nfe", "params", "effective_compute", *records.BUDGET)
_ABOUT = ("run", "dataset", "objective", *_COST)
SUMMARY = "summary"  # the key that an evaluation's own report does not have


class Written(NamedTuple):
  """The files in the order of writing, the rows, and what the charts lack."""

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

  The workdirs are evaluated runs, or a sweep's folder; the reports are
  `report.json` files. For the published results see `published.load`. The
  charts show the main features, unless some are named.

  Raises:
    ConfigError: there are no such published results or features.
    UserError: a file cannot be used, or `out` is an evaluation's folder.
  """
  theirs = published.load(results)
  folder = epath.Path(out)
  _check_free(folder / reading.REPORT)
  entries = reading.read(workdirs, reports)
  rows = summary.summarize(entries)
  spaces = score_table.spaces(rows)
  if not spaces:
    raise UserError("the reports contain no Fréchet distances")
  for name in features:
    if name not in spaces:
      hint = errors.hint(name, spaces, "the reports have")
      raise ConfigError(f"--features={name}: {hint}")
  panels = charts.panels(rows, features or spaces[:1])
  pictures = {
    COMPUTE: charts.draw_compute(panels, theirs),
    SIZE: charts.draw_sizes(panels),
  }
  if rows.training_evaluations.notna().any():
    pictures[TRAINING] = charts.draw_training(panels)
  named = zip(_unique_names(entries), entries, strict=True)
  curves = guidance.curves([{**e.record, "name": name} for name, e in named])
  if len(curves):
    pictures[guidance.CHART] = guidance.draw(curves)
  missing = _missing(rows)
  html = page.render([*pictures.items()], rows, theirs, entries, missing)
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
  spaces, scores = score_table.spaces(rows), score_table.scores(rows)
  merged[SUMMARY] = [
    _nested(row, spaces, scores) for row in rows.to_dict("records")
  ]
  # JSON's null stands for what is missing or not finite.
  text = json.dumps(merged, default=lambda missing: None)
  return json.loads(text, parse_constant=lambda name: None)


def to_csv(rows: pd.DataFrame, results: pd.DataFrame) -> str:
  """Returns every row, ours and published ones; missing cells are empty."""
  ours = rows.assign(source=rows.sources.map(" ".join))
  ours.insert(0, "origin", "this project")
  theirs = results.rename(columns={"method": "run"}).assign(
    origin="published",
    in_series=results.series != "",
    params=results.params.round().astype("Int64"),
    nfe=results.nfe.convert_dtypes(),  # published ones may be averages
  )
  empty = [n for n in ("fd_inception", "fd_dinov2") if theirs[n].isna().all()]
  theirs = theirs.drop(columns=empty).astype(object)
  table = pd.concat([ours.astype(object), theirs])
  return csv_text(table.drop(columns=[*_HIDDEN], errors="ignore"))


def csv_text(table: pd.DataFrame) -> str:
  """Returns a table as CSV, numbers to six digits."""
  digits = lambda x: f"{x:.6g}" if isinstance(x, float) else x
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
  """Returns notes on runs that lack a ratio or a chart, or are contradicted."""
  teachers = rows.objective.map(titles.is_teacher).astype(bool)
  ratios = rows.filter(like="ratio_")
  lacking = {
    "No ratio, because the teacher's score, by as many samples and by classes "
    "chosen alike, is not among the reports": (
      ~teachers & ratios.isna().all(axis=1)
    ),
    "Not in the charts, because parameters or evaluations are not known": (
      rows.effective_compute.isna()
    ),
    "Measured several times with different results, perhaps with another "
    "autoencoder or other weights of features; the last report counts": (
      rows.contradicted
    ),
  }
  return [
    f"{reason}: {', '.join(rows.run[lines].unique())}."
    for reason, lines in lacking.items()
    if lines.any()
  ]


def _unique_names(entries: Sequence[Entry]) -> list[str]:
  """Returns a name for each record that no other has."""
  names = [str(entry.record.get("name") or "run") for entry in entries]
  often = Counter(names)
  result: list[str] = []
  for name, entry in zip(names, entries, strict=True):
    folder = entry.training.rstrip("/").rpartition("/")[2]
    if often[name] > 1 and folder:
      name = f"{folder}: {name}"
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    choices = itertools.chain([name], numbered)
    result.append(next(each for each in choices if each not in result))
  return result


def _nested(
  row: dict[str, Any], spaces: Sequence[str], scores: Sequence[str]
) -> dict[str, Any]:
  """Returns a row as `report.json` has it."""

  def known(names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if not pd.isna(row[name])}

  def by_space(kind: str) -> dict[str, dict[str, float]]:
    ends = {"mean": "", "sd": "_sd", "least": "_min", "count": "_count"}
    return {
      space: {key: row[f"{kind}_{space}{end}"] for key, end in ends.items()}
      for space in spaces
      if not pd.isna(row.get(f"{kind}_{space}"))
    }

  counts = ("num", "trainings", "in_series", "sources")
  return {
    **{name: row[name] for name in _ABOUT},
    **known(records.SETTINGS),
    **{name: row[name] for name in counts},
    "fd": by_space("fd"),
    "ratio": by_space("ratio"),
    **known(scores),
  }
