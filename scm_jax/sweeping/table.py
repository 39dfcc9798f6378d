"""The table of a sweep: scores against what was swept, over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from scm_jax import configuration
from scm_jax.reporting import combined_report, score_table, tables
from scm_jax.reporting.score_table import Entry
from scm_jax.sweeping import points, scoring
from scm_jax.sweeping.runs import Run

_STEPS = ("steps", "teacher_steps")  # of sampling; every record has its own
_COST = ("objective", "steps", "nfe", "params", "seeds", "failed")


def gather(runs: Sequence[Run], more: Sequence[str] = ()) -> pd.DataFrame:
  """Returns a row for each group of seeds, way to sample and number of steps.

  `more` are the flags of `scm-jax evaluate` that were given for all runs.

  Returns:
    A flat table (see `reporting.score_table`) with `point`, `sampling` and both
    in one `label`; what was swept, each under its name with "swept " in front;
    `seeds`, how many runs were scored, and `failed`, how many failed; `ratio`
    in the main features. A way to sample that has no scores yet has one row.
  """
  swept = _fields(runs)
  teachers = {run.name: run.point.teacher for run in runs}
  groups: dict[str, list[Run]] = {}
  for run in runs:
    groups.setdefault(run.point.group or run.name, []).append(run)
  heads: dict[tuple, dict[str, Any]] = {}
  entries, keys = [], []
  for group, members in groups.items():
    for number, sampling in enumerate(members[0].point.sampling):
      words = scoring.flags(sampling, more)
      head = _head(group, members, _effective(sampling, more), swept)
      found = [
        Entry(record, training=run.name, teacher=_first(run.name, teachers))
        for run in members
        if run.finished  # others have the scores of an earlier step at most
        for record in scoring.read(run).get((words, run.step), ())
      ]
      own = [(group, number, e.record["steps"], e.record["nfe"]) for e in found]
      heads |= dict.fromkeys(own or [(group, number)], head)
      entries += found
      keys += own
  scores = score_table.summarize(entries, keys)
  scores.index = pd.Index(dict.fromkeys(keys), tupleize_cols=False)
  index = pd.Index(heads, tupleize_cols=False)
  table = pd.DataFrame(list(heads.values()), index=index).join(scores)
  table["seeds"] = table.trainings.fillna(0)
  main = (*score_table.spaces(table), "")[0]
  for end in ("", "_sd", "_count"):  # stay if no student was scored
    missing = pd.Series(math.nan, index=table.index)
    table[f"ratio{end}"] = table.get(f"ratio_{main}{end}", missing)
  return table.reset_index(drop=True)


def _fields(runs: Sequence[Run]) -> list[str]:
  """Returns the swept parts of configs' arguments, fields and flags."""
  names: dict[str, None] = {}
  for run in runs:
    names |= dict.fromkeys([*_arguments(run), *run.point.overrides])
    names |= dict.fromkeys(key for way in run.point.sampling for key in way)
  return [name for name in names if name not in ("seed", *_STEPS)]


def to_csv(table: pd.DataFrame) -> str:
  """Returns the table as CSV, numbers to six digits.

  Its `ratio` is that of the main features, and `kid_x1000` is KID times 1000.
  """
  columns = {name: table[name] for name in ("point", "sampling")}
  for name in table:
    if name.startswith("swept "):
      columns[name.removeprefix("swept ")] = table[name]
  columns |= {name: table[name] for name in _COST}
  for name in _scores(table):
    head, scale = ("kid_x1000", 1000) if name == "kid" else (name, 1)
    columns[head] = table[name] * scale
    columns[f"{head}_sd"] = table[f"{name}_sd"] * scale
  return combined_report.csv_text(pd.DataFrame(columns))


def to_cells(table: pd.DataFrame) -> pd.DataFrame:
  """Returns what a reader wants first, as texts: distances and ratio."""
  scores = [n for n in _scores(table) if n.startswith("fd_") or n == "ratio"]
  cells = [
    {
      "point": row["label"],
      "NFE": tables.whole(row["nfe"]),
      "seeds": f"{row['seeds']}"
      + f" ({row['failed']} failed)" * bool(row["failed"]),
      **{name: tables.plus_minus(row, name) for name in scores},
    }
    for row in table.to_dict("records")
  ]
  found = tables.filled(cells)
  return found if "ratio" in found else found.assign(ratio=tables.MISSING)


def _scores(table: pd.DataFrame) -> list[str]:
  """Returns the names of the scores: distances first, the ratio last."""
  distances = [f"fd_{space}" for space in score_table.spaces(table)]
  others = sorted(score_table.scores(table), key=lambda name: name == "ratio")
  return [*distances, *others]


def _first(name: str, teachers: Mapping[str, str]) -> str:
  """Returns a run's teacher, or that of its teacher if it was a student too."""
  teacher = teachers[name]
  while before := teachers.get(teacher):
    teacher = before
  return teacher


def _effective(
  sampling: Mapping[str, Any], more: Sequence[str]
) -> dict[str, Any]:
  """Returns a way to sample with the values that further flags give it."""
  given = {
    flag.removeprefix("--").replace("-", "_"): text if equals else True
    for flag, equals, text in (word.partition("=") for word in more)
  }
  found = dict(sampling)
  for key in found.keys() & given.keys():
    value, several = given[key], isinstance(found[key], tuple | list)
    found[key] = tuple(str(value).split(",")) if several else value
  return found


def _head(
  group: str,
  runs: Sequence[Run],
  sampling: Mapping[str, Any],
  swept: Sequence[str],
) -> dict[str, Any]:
  """Returns what a row stands for; unset fields have their config's value."""
  config = configuration.flatten(runs[0].config)
  known = {**config, **_arguments(runs[0])}
  known |= {**runs[0].point.overrides, **sampling}
  way = {key: value for key, value in sampling.items() if key not in _STEPS}
  words = points.name(way)
  return {
    "point": group,
    "sampling": words,
    "label": ", ".join(filter(None, (group, words))),
    **{f"swept {name}": known.get(name, "") for name in swept},
    "failed": sum(run.failure is not None for run in runs if not run.finished),
  }


def _arguments(run: Run) -> dict[str, str]:
  """Returns the parts of a config's argument, `true` for flags."""
  pairs = (word.partition("=") for word in run.point.arg.split(",") if word)
  return {key: value if equals else "true" for key, equals, value in pairs}
