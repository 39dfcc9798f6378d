"""`report.html`: charts, tables and notes on one self-contained page.

The page needs no scripts, no network and no other file. Its text stands in
`page.html`.
"""

import base64
import importlib.resources
from collections.abc import Mapping, Sequence

import jinja2
import pandas as pd

from scm_jax.reporting import score_table, tables, titles
from scm_jax.reporting.score_table import Entry

_TEXTS = ("run", "data", "sampler", "method", "source", "note")
_CHARTS = (
  ("Quality against sampling compute", "Distance against sampling compute"),
  (
    "Quality against model size",
    "Distance, and its ratio to the teacher's, against parameters",
  ),
)


def render(
  charts: Sequence[bytes],
  rows: pd.DataFrame,
  results: pd.DataFrame,
  entries: Sequence[Entry],
  missing: Sequence[str],
) -> str:
  """Returns the page.

  Args:
    charts: PNGs against compute and against model size.
    rows: the rows of `summary.summarize`.
    results: published results; may be empty.
    entries: the records that the rows summarize.
    missing: sentences that say what the charts lack.
  """
  spaces = score_table.spaces(rows)
  names = filter(None, map(titles.dataset, dict.fromkeys(rows.dataset)))
  pictures = [base64.b64encode(png).decode() for png in charts]
  return _template().render(
    title=" on ".join(filter(None, ("scm_jax", ", ".join(names)))),
    charts=[(*c, p) for c, p in zip(_CHARTS, pictures, strict=False)],
    texts=_TEXTS,
    ours=tables.filled(_our_cells(rows, spaces)),
    grey=list(~rows.in_series.astype(bool)),
    published=tables.filled(map(_published_cells, results.to_dict("records"))),
    main=spaces[0],
    repeated=(rows[[f"fd_{s}_count" for s in spaces]] > 1).any(axis=None),
    missing=missing,
    labels=sorted({str(n) for e in entries if (n := e.record.get("labels"))}),
    warnings=sorted(
      {str(line) for e in entries for line in e.record.get("warnings") or ()}
    ),
    sources=list(dict.fromkeys(entry.source for entry in entries)),
  )


def _template() -> jinja2.Template:
  """Returns the page's template, which escapes all that is put into it."""
  text = importlib.resources.files("scm_jax.reporting").joinpath("page.html")
  environment = jinja2.Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True
  )
  return environment.from_string(text.read_text(encoding="utf-8"))


def _our_cells(
  rows: pd.DataFrame, spaces: Sequence[str]
) -> list[dict[str, str]]:
  """Returns the cells of the table of our own runs."""
  scores = score_table.scores(rows)
  return [
    {
      "run": row["run"],
      "data": titles.dataset(row["dataset"]),
      "sampler": row["series"],
      **tables.cost_cells(row),
      **tables.setting_cells(row),
      "images": tables.whole(row["num"]),
      "trainings": tables.whole(row["trainings"]),
      **tables.score_cells(row, spaces, scores),
    }
    for row in rows.to_dict("records")
  ]


def _published_cells(row: Mapping) -> dict[str, str]:
  """Returns the cells of a published result."""
  return {
    "method": row["method"],
    **tables.cost_cells(row),
    "FID": tables.score(row["fid"]),
    "FD-DINOv2": tables.score(row["fdd"]),
    "source": row["source"],
    "note": row["note"],
  }
