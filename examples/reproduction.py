"""Tables and figures of docs/reproduction.md, from the sweep of miniature.py.

    python examples/reproduction.py runs/miniature/table.csv docs

replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->` in
docs/reproduction.md by the table of that name, and writes docs/reproduction/
NAME.png. The words around them are written by hand.
"""

import csv
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure

Row = dict[str, str]
NAMES = {"teacher": "teacher", "scd": "sCD", "sct": "sCT"}
COLORS = {"teacher": "#333333", "scd": "#0072B2", "sct": "#D55E00"}
MAIN = "fd_classifier"
STEPS = (1, 2, 4, 32)
CHOICES = {
  "": "as the paper has it",
  "no_tangent_normalization": "no tangent normalisation",
  "no_adaptive_weighting": "no adaptive weighting",
  "no_warmup": "no tangent warm-up",
  "discrete_64": "discrete, N = 64",
  "discrete_1024": "discrete, N = 1024",
}


def main(argv: Sequence[str]) -> int:
  """Writes everything; exit code 1 and one line if something is missing."""
  if len(argv) != 2:
    print("usage: reproduction.py TABLE.csv DOCS", file=sys.stderr)
    return 2
  table, docs = map(pathlib.Path, argv)
  page = docs / "reproduction.md"
  try:
    with open(table, newline="") as file:
      rows = list(csv.DictReader(file))
    text = page.read_text()
  except OSError as error:
    print(f"reproduction.py: {error.filename}: {error.strerror}",
          file=sys.stderr)  # fmt: skip
    return 1
  for name, make in TABLES.items():
    text = replaced(text, name, make(rows))
  page.write_text(text)
  (docs / "reproduction").mkdir(exist_ok=True)
  for name, draw in FIGURES.items():
    figure = Figure(figsize=(7, 4), layout="constrained", dpi=120)
    draw(figure.add_subplot(), rows)
    figure.savefig(docs / "reproduction" / f"{name}.png")
  return 0


def replaced(text: str, name: str, table: str) -> str:
  """A page with the table of that name in place of the one that it has."""
  mark = f"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
  if not re.search(mark, text, re.S):
    raise SystemExit(f"reproduction.py: the page has no place for {name!r}")
  return re.sub(mark, lambda m: f"{m[1]}{table}\n{m[2]}", text, flags=re.S)


def quality(rows: Sequence[Row], data: str = "digits") -> str:
  """Distances of each size and run by steps; a teacher's are Heun's."""
  found = plain(rows, data)
  lines = [
    [f"{size / 1000:.0f}", NAMES[run], *(at(mine, n, MAIN) for n in STEPS)]
    for size in sizes(found)
    for run in NAMES
    if (mine := of(found, size, run))
  ]
  steps = [f"{n} step{'s' * (n > 1)}" for n in STEPS]
  return markdown(["thousand parameters", "run", *steps], lines)


def ratio(rows: Sequence[Row]) -> str:
  """Distances over the teacher's at 63 evaluations, by size."""
  columns = [(run, n) for run in ("scd", "sct") for n in (1, 2, 4)]
  head = [f"{NAMES[run]}, {n} step{'s' * (n > 1)}" for run, n in columns]
  found = plain(rows, "digits")
  lines = [
    [f"{size / 1000:.0f}"]
    + [at(of(found, size, run), n, "ratio") for run, n in columns]
    for size in sizes(found)
  ]
  return markdown(["thousand parameters", *head], lines)


def choices(rows: Sequence[Row]) -> str:
  """sCD with one choice left out at a time, at 1, 2 and 4 steps."""
  lines = []
  for name, words in CHOICES.items():
    mine = [row for row in rows if row["point"] == _student(name)]
    failed = max((int(row["failed"]) for row in mine), default=0)
    lines.append([words, *(at(mine, n, MAIN) for n in (1, 2, 4)), str(failed)])
  head = ["sCD", "1 step", "2 steps", "4 steps", "failed runs"]
  return markdown(head, lines)


def guidance(rows: Sequence[Row]) -> str:
  """sCD that takes the guidance scale as an input."""
  mine = [row for row in rows if row["point"] == _student("guidance")]
  lines = [
    [scale, *(at(found, n, MAIN) for n in (1, 2, 4))]
    for scale in dict.fromkeys(row["guidance"] for row in mine)
    if (found := [row for row in mine if row["guidance"] == scale])
  ]
  return markdown(["scale", "1 step", "2 steps", "4 steps"], lines)


def plain(rows: Iterable[Row], data: str) -> list[Row]:
  """The rows of teachers and students without any choice left out."""
  pattern = {"digits": r"(teacher|scd|sct)_\d+", "mnist": r".*_mnist"}[data]
  return [row for row in rows if re.fullmatch(pattern, row["point"])]


def sizes(rows: Iterable[Row]) -> list[int]:
  """The numbers of parameters among rows."""
  return sorted({int(row["params"]) for row in rows if row["params"]})


def of(rows: Iterable[Row], size: int, run: str) -> list[Row]:
  """The rows of one size and objective."""
  both = (str(size), run)
  return [row for row in rows if (row["params"], row["objective"]) == both]


def at(rows: Iterable[Row], steps: int, score: str) -> str:
  """`0.133 ± 0.015` at a number of steps; `–` if there is none."""
  for row in rows:
    if row["steps"] == str(steps) and row[score]:
      text, sd = f"{float(row[score]):.3f}", row[f"{score}_sd"]
      return f"{text} ± {float(sd):.3f}" if sd else text
  return "–"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
  """A table of the given cells."""
  every = [head, ["---"] * len(head), *lines]
  return "\n".join(f"| {' | '.join(line)} |" for line in every)


def draw_quality(axes: Any, rows: Sequence[Row]) -> None:
  """Distance against evaluations, at the largest size."""
  found = plain(rows, "digits")
  largest = sizes(found)[-1]
  for run in NAMES:
    mine = [row for row in of(found, largest, run) if row[MAIN]]
    _bars(axes, mine, "nfe", MAIN, run)
  _finish(axes, "network evaluations", "Fréchet distance", "log")
  axes.set_title(f"Digits, {largest / 1e6:.2f} million parameters", size=11)


def draw_ratio(axes: Any, rows: Sequence[Row]) -> None:
  """The ratio to the teacher against parameters, at 1 and 2 steps."""
  for run in ("scd", "sct"):
    for nfe, line in ((1, ":"), (2, "-")):
      mine = [
        row
        for row in plain(rows, "digits")
        if row["objective"] == run and row["nfe"] == str(nfe) and row["ratio"]
      ]
      _bars(axes, mine, "params", "ratio", run, line, f", {nfe} step")
  axes.axhline(1.0, color="#6B6B6B", linewidth=1, linestyle="--")
  _finish(axes, "parameters", "ratio to the teacher at 63 evaluations")


def draw_choices(axes: Any, rows: Sequence[Row]) -> None:
  """A line for each choice left out, at 1 and 2 steps."""
  names = list(CHOICES)
  for nfe, color in ((1, "#56B4E9"), (2, "#0072B2")):
    mine = {
      name: row
      for name in names
      for row in rows
      if row["point"] == _student(name) and row["nfe"] == str(nfe) and row[MAIN]
    }
    axes.errorbar(
      [float(row[MAIN]) for row in mine.values()],
      [names.index(name) + 0.12 * (nfe - 1.5) for name in mine],
      xerr=[float(row[f"{MAIN}_sd"] or 0) for row in mine.values()],
      fmt="o",
      color=color,
      capsize=3,
      label=f"{nfe} step{'s' * (nfe > 1)}",
    )
  axes.set_yticks(range(len(names)), CHOICES.values())
  axes.invert_yaxis()
  _finish(axes, "Fréchet distance", "", "log", axes.set_xscale)


def _student(choice: str) -> str:
  return f"scd_16_{choice}" if choice else "scd_16"


def _bars(axes, rows, x, y, run, line="-", more="") -> None:
  rows = sorted(rows, key=lambda row: float(row[x]))
  axes.errorbar(
    [float(row[x]) for row in rows],
    [float(row[y]) for row in rows],
    yerr=[float(row[f"{y}_sd"] or 0) for row in rows],
    fmt=f"o{line}",
    color=COLORS[run],
    capsize=3,
    label=NAMES[run] + more,
  )


def _finish(
  axes: Any,
  x: str,
  y: str,
  scale: str = "linear",
  set_scale: Callable | None = None,
) -> None:
  if set_scale is None:
    axes.set_xscale("log")
    set_scale = axes.set_yscale
  set_scale(scale)
  axes.set_xlabel(x)
  axes.set_ylabel(y)
  axes.grid(True, color="#E6E6E6")
  axes.set_axisbelow(True)
  axes.legend(frameon=False)


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
  "quality": quality,
  "ratio": ratio,
  "choices": choices,
  "guidance": guidance,
  "mnist": lambda rows: quality(rows, "mnist"),
}
FIGURES: dict[str, Callable[[Any, Sequence[Row]], None]] = {
  "quality": draw_quality,
  "ratio": draw_ratio,
  "choices": draw_choices,
}

if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
