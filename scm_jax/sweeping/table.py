"""One table of a sweep: scores against what was swept, over seeds."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scm_jax import configuration
from scm_jax.metrics import report
from scm_jax.sweeping import points, scoring
from scm_jax.sweeping.runs import Run

Row = dict[str, Any]
_STEPS = ("steps", "teacher_steps")  # of sampling; every record has its own
# What a record says besides its scores.
_SAMPLING = ("steps", "nfe")
_SINGLE = ("precision", "recall")  # scores in the main features alone


def gather(runs: Sequence[Run], more: Sequence[str] = ()) -> list[Row]:
  """A row for each group of seeds, way to sample and number of steps.

  Its columns: `point`; `sampling`, in words; what was swept (parts of the
  configs' arguments, overridden fields, flags of sampling); `objective`,
  `steps`, `nfe`, `params`; `seeds` that were scored and runs that `failed`; for
  every score NAME, `NAME` and `NAME_sd` over seeds; `ratio` to the teacher of
  the same seed, at the most evaluations of its first way to sample. Deviations
  are those of a sample (n - 1), absent for one seed.

  Args:
    runs: of the sweep.
    more: flags of `scm-jax evaluate` that were given for all.
  """
  by_name = {run.name: run for run in runs}
  swept = fields(runs)
  groups: dict[str, list[Run]] = {}
  for run in runs:
    groups.setdefault(run.point.group or run.name, []).append(run)
  rows = []
  for group, members in groups.items():
    for sampling in members[0].point.sampling:
      found: dict[tuple, list[Row]] = {}
      for run in members:
        floor = _teacher_distance(run, by_name, more)
        for record in scoring.records(run, sampling, more):
          key = tuple(record[name] for name in _SAMPLING)
          found.setdefault(key, []).append(_flat(record, floor))
      failed = sum(run.failure is not None for run in members)
      way = points.name({k: v for k, v in sampling.items() if k not in _STEPS})
      head = {"point": group, "sampling": way}
      head |= _values(members[0], sampling, swept)
      for scores in found.values() or [[]]:
        rows.append(head | _summary(scores, failed))
  return _complete(rows)


def fields(runs: Sequence[Run]) -> list[str]:
  """Names of what differs on purpose: arguments, overrides, sampling."""
  names: dict[str, None] = {}
  for run in runs:
    names |= dict.fromkeys([*_arguments(run), *run.point.overrides])
    names |= dict.fromkeys(key for way in run.point.sampling for key in way)
  return [name for name in names if name not in ("seed", *_STEPS)]


def _values(run: Run, sampling: Mapping, swept: Sequence[str]) -> Row:
  """What a row has for the swept names; a config's own value where not set."""
  config = configuration.flatten(run.config)
  known = {**config, **_arguments(run), **run.point.overrides, **sampling}
  return {name: known.get(name, "") for name in swept}


def _arguments(run: Run) -> dict[str, str]:
  pairs = (word.partition("=") for word in run.point.arg.split(",") if word)
  return {key: value if equals else "true" for key, equals, value in pairs}


def _teacher_distance(
  run: Run, by_name: Mapping[str, Run], more: Sequence[str]
) -> float | None:
  """The main distance of a run's teacher at its most evaluations."""
  teacher = by_name.get(run.point.teacher)
  if teacher is None:
    return None
  found = scoring.records(teacher, teacher.point.sampling[0], more)
  best = max(found, key=lambda record: record["nfe"], default=None)
  return None if best is None else best["fd"][_main(best)]


def _main(record: Mapping[str, Any]) -> str:
  return report.main_features({"runs": [record]})


def _flat(record: Mapping[str, Any], teacher: float | None) -> Row:
  """A record's sampling and scores as one level of numbers."""
  main = _main(record)
  row: Row = {"objective": record["objective"], "params": record["params"]}
  row |= {name: record[name] for name in _SAMPLING}
  row |= {f"fd_{name}": value for name, value in record["fd"].items()}
  row["kid_x1000"] = _times(record.get("kid", {}).get(main), 1000)
  row |= {name: record.get(name, {}).get(main) for name in _SINGLE}
  row["ratio"] = record["fd"][main] / teacher if teacher else None
  return row


def _times(value: float | None, factor: float) -> float | None:
  return None if value is None else value * factor


def _summary(rows: Sequence[Row], failed: int) -> Row:
  """Mean and deviation of the seeds' rows."""
  same = ("objective", *_SAMPLING, "params")
  first = rows[0] if rows else {}
  result: Row = {name: first.get(name, "") for name in same}
  result |= {"seeds": len(rows), "failed": failed}
  for name in [name for name in first if name not in same]:
    values = [row[name] for row in rows if row[name] is not None]
    if values:
      result[name] = statistics.fmean(values)
      result[f"{name}_sd"] = statistics.stdev(values) if values[1:] else None
  return result


def _complete(rows: Iterable[Row]) -> list[Row]:
  """Rows with the same columns, in one order."""
  rows = list(rows)
  names = list(dict.fromkeys(name for row in rows for name in row))
  return [{name: row.get(name, "") for name in names} for row in rows]


def to_csv(rows: Sequence[Row]) -> str:
  """The table as CSV; numbers to six digits, what is missing empty."""
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
  writer.writeheader()
  for row in rows:
    writer.writerow({name: _cell(value) for name, value in row.items()})
  return text.getvalue()


def _cell(value: Any) -> Any:
  if value is None:
    return ""
  return f"{value:.6g}" if isinstance(value, float) else value


def label(row: Mapping[str, Any]) -> str:
  """A row in a few words: its point, and how it sampled."""
  return ", ".join(filter(None, (row["point"], row["sampling"])))


def distances(rows: Sequence[Row]) -> list[str]:
  """Columns of Fréchet distances, the main features' first."""
  names = [f"{name}_sd" for name in rows[0]]
  found = [n for n in rows[0] if n.startswith("fd_") and n not in names]
  return sorted(found, key="fd_pixels".__eq__)


def plus_minus(row: Mapping[str, Any], name: str) -> str:
  """`0.133 ± 0.015`; `-` for what is missing."""
  value, sd = row.get(name), row.get(f"{name}_sd")
  if value in (None, "") or math.isnan(float(value)):
    return "-"
  text = f"{float(value):.3f}"
  return text if sd in (None, "") else f"{text} ± {float(sd):.3f}"


def to_text(rows: Sequence[Row]) -> str:
  """The table for a terminal: points, distances, ratio to the teacher."""
  head, *lines = _cells(rows)
  widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
  return "\n".join(
    "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
    for line in (head, ["-" * width for width in widths], *lines)
  )


def to_markdown(rows: Sequence[Row]) -> str:
  """The same for a page of documentation."""
  head, *lines = _cells(rows)
  return "".join(
    f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *lines)
  )


def _cells(rows: Sequence[Row]) -> list[list[str]]:
  """The head and a line for each row, of what a reader wants first."""
  scores = distances(rows)
  lines = [
    [
      label(row),
      str(row["nfe"]) or "-",
      f"{row['seeds']}" + (f" ({row['failed']} failed)" * bool(row["failed"])),
      *(plus_minus(row, name) for name in (*scores, "ratio")),
    ]
    for row in rows
  ]
  return [["point", "NFE", "seeds", *scores, "ratio"], *lines]
