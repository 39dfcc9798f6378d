"""Writes the tables and figures of docs/reproduction.md from a sweep's table.

    python examples/reproduction.py runs/miniature/table.csv docs

replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->` in
docs/reproduction.md by the table of that name, and writes docs/reproduction/
NAME.png. The text around them is written by hand.
"""

import pathlib
import re
import sys
from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.axes import Axes

from scm_jax.objectives import OBJECTIVES
from scm_jax.reporting import chart_parts, charts, score_table, tables, titles

MAIN = "fd_classifier"
STEPS = {1: "1 step", 2: "2 steps", 4: "4 steps", 32: "32 steps"}
FEW = {steps: STEPS[steps] for steps in (1, 2, 4)}
CHOICES = {
  "scd_16": "as the paper has it",
  "scd_16_no_tangent_normalization": "no tangent normalisation",
  "scd_16_no_adaptive_weighting": "no adaptive weighting",
  "scd_16_no_warmup": "no tangent warm-up",
  "scd_16_discrete_64": "discrete, N = 64",
  "scd_16_discrete_1024": "discrete, N = 1024",
}


def main(argv: Sequence[str]) -> int:
  """Writes everything; returns 1 after one line if a file is missing."""
  if len(argv) != 2:
    print("usage: reproduction.py TABLE.csv DOCS", file=sys.stderr)
    return 2
  table, docs = map(pathlib.Path, argv)
  page = docs / "reproduction.md"
  try:
    rows = read(table)
    text = page.read_text()
  except OSError as error:
    message = f"reproduction.py: {error.filename}: {error.strerror}"
    print(message, file=sys.stderr)
    return 1
  if "guidance" not in rows:
    message = f"{table} is not the table of configs/miniature.py"
    print(f"reproduction.py: {message}", file=sys.stderr)
    return 1
  for name, make in TABLES.items():
    text = replaced(text, name, tables.markdown(make(rows)))
  page.write_text(text)
  (docs / "reproduction").mkdir(exist_ok=True)
  for name, draw in FIGURES.items():
    (docs / "reproduction" / f"{name}.png").write_bytes(picture(draw, rows))
  return 0


@chart_parts.styled
def picture(draw: Callable, rows: pd.DataFrame) -> bytes:
  """Returns one figure as PNG."""
  page = chart_parts.Page(7.5, 4.5)
  axes = page.figure.subplots()
  page.label(axes, draw(axes, rows))
  return page.png()


def read(path: pathlib.Path) -> pd.DataFrame:
  """Returns the scored rows of a sweep's table, ready to be drawn."""
  rows = pd.read_csv(path).dropna(subset=["objective"])
  counts = rows[["steps", "nfe", "params"]].astype(int)
  rows = score_table.with_appearance(rows.assign(**counts))
  names = rows[["objective", "steps", "nfe"]].itertuples(index=False)
  return rows.assign(series=[titles.series_title(*name) for name in names])


def replaced(text: str, name: str, table: str) -> str:
  """Returns a page with another table in the place that has its name."""
  mark = f"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
  if not re.search(mark, text, re.S):
    raise SystemExit(f"reproduction.py: the page has no place for {name!r}.")
  return re.sub(mark, lambda m: m[1] + table + m[2], text, flags=re.S)


def by_steps(
  rows: pd.DataFrame, index: list[str], steps: dict[int, str], score: str = MAIN
) -> pd.DataFrame:
  """Returns a table of `0.133 ± 0.015`, a column for each number of steps."""
  scored = rows[rows[score].notna() & rows.steps.isin(steps)]
  cells = [tables.plus_minus(row, score) for row in scored.to_dict("records")]
  wide = scored.assign(cell=cells).pivot(
    index=index, columns="steps", values="cell"
  )
  return wide.reindex(columns=list(steps)).rename(columns=steps)


def finished(table: pd.DataFrame, heads: dict[str, str]) -> pd.DataFrame:
  """Returns a table with its index as columns, under heads for readers."""
  return table.reset_index().rename(columns=heads).fillna(tables.MISSING)


def quality(rows: pd.DataFrame, data: str = "digits") -> pd.DataFrame:
  """Returns the distance of each size and run by steps."""
  table = by_steps(plain(rows, data), ["params", "objective"], STEPS)
  order = ["teacher", "scd", "sct"]
  table = table.sort_index(level=1, key=lambda runs: runs.map(order.index))
  table = table.sort_index(level=0, sort_remaining=False, kind="stable")
  label = lambda run: OBJECTIVES[run].label
  table = table.rename(thousands, level=0).rename(label, level=1)
  return finished(table, {"params": "thousand parameters", "objective": "run"})


def ratio(rows: pd.DataFrame) -> pd.DataFrame:
  """Returns distances over the teacher's at 63 evaluations, by size."""
  table = by_steps(
    plain(rows, "digits"), ["params", "objective"], FEW, "ratio"
  ).unstack()
  columns = [(steps, run) for run in ("scd", "sct") for steps in FEW.values()]
  table = table.reindex(columns=pd.MultiIndex.from_tuples(columns))
  table.columns = [
    f"{OBJECTIVES[run].label}, {steps}" for steps, run in columns
  ]
  return finished(table.rename(thousands), {"params": "thousand parameters"})


def choices(rows: pd.DataFrame) -> pd.DataFrame:
  """Returns sCD's distances with one choice left out at a time."""
  table = by_steps(rows[rows.point.isin(CHOICES)], ["point"], FEW)
  table = table.reindex(list(CHOICES))
  failed = rows.groupby("point").failed.max().reindex(table.index, fill_value=0)
  table["failed runs"] = failed.astype(str)
  return finished(table.rename(CHOICES), {"point": "sCD"})


def guidance(rows: pd.DataFrame) -> pd.DataFrame:
  """Returns the distances of sCD with the guidance scale as an input."""
  mine = rows[rows.point == "scd_16_guidance"]
  table = by_steps(mine, ["guidance"], FEW).rename("{:g}".format)
  return finished(table, {"guidance": "scale"})


def plain(rows: pd.DataFrame, data: str) -> pd.DataFrame:
  """Returns the rows of teachers and students without a choice left out."""
  pattern = {"digits": r"(teacher|scd|sct)_\d+", "mnist": r".*_mnist"}[data]
  return rows[rows.point.str.fullmatch(pattern)]


def thousands(params: int) -> str:
  """Returns a number of parameters in thousands."""
  return f"{params / 1000:.0f}"


def draw_quality(axes: Axes, rows: pd.DataFrame) -> list[chart_parts.Label]:
  """Draws the distance against evaluations, at the largest size."""
  found = plain(rows, "digits")
  largest = found[found.params == found.params.max()]
  chart_parts.lines(axes, largest, "nfe", MAIN, "objective", "objective")
  charts.legend_entries(axes, largest)
  axes.legend()
  title = f"Digits, {largest.params.max() / 1e6:.2f} million parameters"
  names = {"xlabel": "network evaluations", "ylabel": "Fréchet distance"}
  chart_parts.finish(axes, title=title, **names)
  return []


def draw_ratio(axes: Axes, rows: pd.DataFrame) -> list[chart_parts.Label]:
  """Draws the ratio to the teacher against parameters, at 1 and 2 steps."""
  found = plain(rows, "digits")
  students = found[found.nfe.isin((1, 2)) & (found.objective != "teacher")]
  axes.set_ylabel("ratio to the teacher at 63 evaluations")
  return charts.size_axes(axes, students, "ratio")


def draw_choices(axes: Axes, rows: pd.DataFrame) -> list[chart_parts.Label]:
  """Draws a line for each choice left out, at 1 and 2 steps."""
  few = rows[rows.point.isin(CHOICES) & rows.nfe.isin((1, 2))]
  few = few.assign(label=few.point.map(CHOICES))
  chart_parts.ranking(axes, few, "label", MAIN)
  chart_parts.finish(axes, xlabel="Fréchet distance, classifier features")
  return []


TABLES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
  "quality": quality,
  "ratio": ratio,
  "choices": choices,
  "guidance": guidance,
  "mnist": lambda rows: quality(rows, "mnist"),
}
FIGURES: dict[str, Callable[[Axes, pd.DataFrame], list[chart_parts.Label]]] = {
  "quality": draw_quality,
  "ratio": draw_ratio,
  "choices": draw_choices,
}

if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
