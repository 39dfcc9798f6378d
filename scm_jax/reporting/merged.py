"""What a report of many runs holds as data: `report.json` and a CSV."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from scm_jax.metrics import report
from scm_jax.reporting.gather import Entry
from scm_jax.reporting.published import Figure
from scm_jax.reporting.statistic import Statistic
from scm_jax.reporting.summary import SETTINGS, SINGLE, Row

SUMMARY = "summary"  # what tells a gathered report from an evaluation's
OURS = "this project"


def merge(entries: Sequence[Entry], rows: Sequence[Row]) -> dict[str, Any]:
  """All records as one report, with the rows as its `summary`.

  Names of runs that occur twice get their folder's in front. `reference` is
  what all agree on; where they differ, `references` has each.
  """
  runs = [
    {**entry.record, "name": name, "dataset": entry.dataset}
    for entry, name in zip(entries, _names(entries), strict=True)
  ]
  known = {json.dumps(e.reference, sort_keys=True): e for e in entries}
  references = [
    {**json.loads(text), "source": entry.source}
    for text, entry in known.items()
    if entry.reference
  ]
  single = len(known) == 1
  common = dict(entries[0].reference) if single else {}
  merged = report.make_report(runs, common)
  if references and not single:
    merged["references"] = references
  merged[SUMMARY] = [_plain(row) for row in rows]
  return _finite(merged)


def _names(entries: Sequence[Entry]) -> list[str]:
  """A name for each record that no other has."""
  names = [str(entry.record.get("name") or "run") for entry in entries]
  often = Counter(names)
  for index, entry in enumerate(entries):
    folder = entry.origin.folder.rstrip("/").rpartition("/")[2]
    if often[names[index]] > 1 and folder:
      names[index] = f"{folder}: {names[index]}"
  taken: Counter[str] = Counter()
  result = []
  for name in names:
    taken[name] += 1
    unique = name
    while unique in result or (taken[name] > 1 and unique == name):
      unique = f"{name} ({taken[name]})"
      taken[name] += unique in result
    result.append(unique)
  return result


def _plain(row: Row) -> dict[str, Any]:
  """A row as JSON has it."""

  def scores(found: Any) -> dict[str, Any]:
    return {space: value._asdict() for space, value in found.items()}

  return {
    "run": row.run,
    "dataset": row.dataset,
    "objective": row.objective,
    "steps": row.steps,
    "nfe": row.nfe,
    "params": row.params,
    "effective_compute": row.compute,
    **row.settings,
    "num": row.num,
    "trainings": row.trainings,
    "fd": scores(row.fd),
    "ratio": scores(row.ratio),
    **row.single,
    "in_series": row.shown,
    "sources": list(row.sources),
  }


def _finite(value: Any) -> Any:
  """The same with None for numbers that JSON does not have."""
  if isinstance(value, dict):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(item) for item in value]
  if isinstance(value, float) and (
    value != value or abs(value) == float("inf")
  ):
    return None
  return value


def to_csv(
  rows: Sequence[Row], figures: Sequence[Figure], spaces: Sequence[str]
) -> str:
  """Every row, ours and published ones; what is missing is empty.

  Args:
    rows: ours.
    figures: published ones; their effective compute is computed here.
    spaces: feature spaces, each with columns for mean, sd, minimum and ratio.
  """
  lines = [_ours(row) for row in rows] + [_theirs(f) for f in figures]
  head = ["origin", "run", "dataset", "objective", "steps", "nfe", "params"]
  head += ["effective_compute", *SETTINGS, "num", "trainings"]
  columns = list(dict.fromkeys([*spaces, *(["inception"] if figures else [])]))
  if any(figure.fdd for figure in figures) and "dinov2" not in columns:
    columns.append("dinov2")
  for space in columns:
    head += [f"fd_{space}", f"fd_{space}_sd", f"fd_{space}_min"]
    head += [f"ratio_{space}", f"ratio_{space}_sd"]
  head += [*SINGLE, "in_series", "source", "note"]
  text = io.StringIO()
  writer = csv.DictWriter(text, head, restval="", lineterminator="\n")
  writer.writeheader()
  for line in lines:
    writer.writerow({name: _cell(value) for name, value in line.items()})
  return text.getvalue()


def _ours(row: Row) -> dict[str, Any]:
  line = {
    "origin": OURS,
    "run": row.run,
    "dataset": row.dataset,
    "objective": row.objective,
    "steps": row.steps,
    "nfe": row.nfe,
    "params": row.params,
    "effective_compute": row.compute,
    **row.settings,
    "num": row.num,
    "trainings": row.trainings,
    **row.single,
    "in_series": row.shown,
    "source": " ".join(row.sources),
  }
  for name, scores in (("fd", row.fd), ("ratio", row.ratio)):
    for space, found in scores.items():
      line |= {f"{name}_{space}": found.mean, f"{name}_{space}_sd": found.sd}
  return line | _least(row.fd)


def _least(scores: Any) -> dict[str, float]:
  found: dict[str, Statistic] = dict(scores)
  return {f"fd_{space}_min": value.least for space, value in found.items()}


def _theirs(figure: Figure) -> dict[str, Any]:
  millions = figure.params_millions
  line = {
    "origin": "published",
    "run": figure.method,
    "dataset": figure.dataset,
    "nfe": figure.nfe and int(figure.nfe),
    "params": millions and round(millions * 1e6),
    "effective_compute": figure.compute,
    "fd_inception": figure.fid,
    "in_series": bool(figure.series),
    "source": figure.source,
    "note": figure.note,
  }
  return line | ({"fd_dinov2": figure.fdd} if figure.fdd else {})


def _cell(value: Any) -> Any:
  if value is None:
    return ""
  return f"{value:.6g}" if isinstance(value, float) else value
