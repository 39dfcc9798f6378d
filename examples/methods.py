"""Writes the tables of docs/reproduction.md that compare methods of few steps.

    python examples/methods.py runs/methods docs

reads the scores of the sweep `configs/methods.py` and replaces what stands
between `<!-- methods_SPACE -->` and `<!-- /methods_SPACE -->`, for the features
of the classifier and of the judge. A cell has the extrapolated Fréchet distance
(FD∞), and in brackets its ratio to that of the seed's teacher: the mean over
seeds, with the deviation where there are several.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import pandas as pd
from reproduction import replaced

from scm_jax.objectives import OBJECTIVES
from scm_jax.reporting import tables

SPACES = ("classifier", "judge")
STEPS = (1, 2, 4, 8)
NAMES = {
  "cmt_scd": "CMT, then sCD",
  "cmt_ayf": "CMT, then AYF",
  "guided_scd": "sCD, weak guide",
}
COLUMNS = ("point", "seed", "steps", "nfe", *SPACES)


def main(argv: Sequence[str]) -> int:
  """Writes the tables; returns 1 after one line if there is nothing to read."""
  if len(argv) != 2:
    print("usage: methods.py SWEEP DOCS", file=sys.stderr)
    return 2
  workdir, docs = map(pathlib.Path, argv)
  rows = read(workdir)
  taught = rows.seed.isin(rows.seed[rows.point == "teacher"])
  page = docs / "reproduction.md"
  wrong = "" if page.is_file() else f"there is no {page}"
  if rows.empty or not taught.all():
    wrong = f"{workdir} has no scored runs, or no teacher of some of them"
  if wrong:
    print(f"methods.py: {wrong}", file=sys.stderr)
    return 1
  text = page.read_text()
  for space in SPACES:
    table = tables.markdown(by_steps(rows, space))
    text = replaced(text, f"methods_{space}", table)
  page.write_text(text)
  return 0


def read(workdir: pathlib.Path) -> pd.DataFrame:
  """Returns a row of FD∞ for each run and number of steps."""
  found = []
  for path in sorted(workdir.glob("*_seed=*/scores.json")):
    point, _, seed = path.parent.name.partition("_seed=")
    for entry in json.loads(path.read_text()):
      for record in entry["records"]:
        distances = record.get("fd_infinity", {})
        numbers = (int(seed), record["steps"], record["nfe"])
        found.append((point, *numbers, *map(distances.get, SPACES)))
  return pd.DataFrame(found, columns=COLUMNS)


def by_steps(rows: pd.DataFrame, space: str) -> pd.DataFrame:
  """Returns the table of one feature space, the best in one step first."""
  teachers = rows[rows.point == "teacher"]
  best = teachers.sort_values("nfe").groupby("seed").last()[space]
  rows = rows.assign(ratio=rows[space] / rows.seed.map(best))
  whole = rows.point.isin({*OBJECTIVES, *NAMES} - {"teacher"})
  students = rows[whole & rows.steps.isin(STEPS)]  # mid-training is a part
  cells = {
    (title(point), steps): cell(group, space)
    for (point, steps), group in students.groupby(["point", "steps"])
  }
  one = students[students.steps == 1].groupby("point")[space].mean()
  order = [title(point) for point in one.sort_values().index]
  table = pd.Series(cells).unstack().reindex(index=order, columns=STEPS)
  table = table.astype(object)
  table.columns = [f"{n} step{'s' * (n > 1)}" for n in STEPS]
  table.loc["teacher"] = tables.MISSING
  last = teachers[teachers.nfe == teachers.nfe.max()]
  table["63 evaluations"] = tables.MISSING
  table.loc["teacher", "63 evaluations"] = mean(last[space])
  return table.fillna(tables.MISSING).rename_axis("method").reset_index()


def title(point: str) -> str:
  """Returns the words for a point of the sweep."""
  return NAMES.get(point) or OBJECTIVES[point].label


def cell(group: pd.DataFrame, space: str) -> str:
  """Returns `0.075 ± 0.004 (1.8 ± 0.1)`."""
  return f"{mean(group[space])} ({mean(group.ratio, 2)})"


def mean(values: pd.Series, digits: int = 3) -> str:
  """Returns the mean, with the deviation if there are several values."""
  text = f"{values.mean():.{digits}f}"
  if len(values) == 1:
    return text
  return f"{text} ± {values.std(ddof=1):.{digits}f}"


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
