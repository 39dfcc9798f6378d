"""Scores against the guidance scale: the whole curve, not its best point.

Guidance trades variety for quality, so a single scale says little. The curves
are those of the candidates that the best scale was selected from.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from scm_jax import files
from scm_jax.reporting import chart_parts, records, score_table
from scm_jax.reporting.chart_parts import Label

CHART = "guidance.png"
SCORES = ("fd", "precision", "recall")  # of each candidate, in main features
_ABOUT, _NUMBERS = ("name", "objective"), ("guidance", *SCORES)


def curves(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
  """Returns a row for each run and guidance scale, where there are several.

  It has the run's `name`, `objective`, `color` and `marker`, the scale as
  `guidance`, and `fd`, `precision` and `recall`. Of several candidates at one
  scale, which differ in other settings, it has the one of the least distance.
  Reports of earlier versions have no such scores, and give no rows.
  """
  rows = [
    {**{key: run.get(key) for key in _ABOUT}, "run": number, **candidate}
    for number, run in enumerate(runs)
    for candidate in (run.get("selection") or {}).get("candidates", ())
    if all(records.is_number(candidate.get(key)) for key in _NUMBERS)
  ]
  table = pd.DataFrame(rows, columns=["run", *_ABOUT, *_NUMBERS])
  table = table.sort_values("fd").drop_duplicates(["run", "guidance"])
  table = table.sort_values(["run", "guidance"])
  several = table.groupby("run").guidance.transform("nunique") > 1
  found = table[several.astype(bool)].reset_index(drop=True)
  return score_table.with_appearance(found)


@chart_parts.styled
def draw(table: pd.DataFrame) -> bytes:
  """Draws the rows of `curves` as PNG: distance, and precision and recall."""
  page = chart_parts.Page(12.0, 4.6)
  left, right = page.figure.subplots(1, 2)
  labels: list[list[Label]] = [[], []]
  for name, curve in table.groupby("name", sort=False):
    first, last = curve.iloc[0], curve.iloc[-1]
    look = {"color": first.color, "marker": first.marker, "ms": 5}
    left.plot(curve.guidance, curve.fd, **look)
    labels[0].append(Label(last.guidance, last.fd, str(name), first.color))
    for score, line in (("precision", "-"), ("recall", "--")):
      right.plot(curve.guidance, curve[score], line, **look)
      text = f"{name}: {score}"
      labels[1].append(Label(last.guidance, last[score], text, first.color))
  xlabel = "guidance scale"
  for axes, own in zip((left, right), labels, strict=True):
    axes.margins(x=0.25, y=0.15)
    page.label(axes, own)
  chart_parts.finish(left, title="Fréchet distance", xlabel=xlabel)
  title = "Precision (solid) and recall (dashed)"
  chart_parts.finish(right, title=title, xlabel=xlabel)
  return page.png()


def write(folder: os.PathLike[str], runs: Sequence[Mapping[str, Any]]) -> None:
  """Writes the chart of a report's runs, if they have several scales."""
  table = curves(runs)
  if len(table):
    files.write_bytes(os.path.join(folder, CHART), draw(table))
