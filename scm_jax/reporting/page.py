"""`report.html`: charts, tables and notes on one self-contained page.

Its text stands in `page.html`, into which all else is put escaped.
"""

import base64
import importlib.resources
from collections.abc import Sequence
from typing import Any

import jinja2
import pandas as pd

from scm_jax.reporting import score_table, tables, titles
from scm_jax.reporting.score_table import Entry


def render(
  charts: Sequence[tuple[str, bytes]],
  rows: pd.DataFrame,
  results: pd.DataFrame,
  entries: Sequence[Entry],
  missing: Sequence[str],
) -> str:
  """Returns the page.

  It shows the charts (their files' names and PNGs), the rows that summarize the
  entries, published results if there are any, and sentences that say what the
  charts lack.
  """
  template = importlib.resources.files("scm_jax.reporting") / "page.html"
  environment = jinja2.Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True
  )
  names = filter(None, map(titles.dataset, dict.fromkeys(rows.dataset)))
  records = [entry.record for entry in entries]
  warnings = (record.get("warnings") or () for record in records)
  spaces, theirs = score_table.spaces(rows), results.to_dict("records")
  counts = rows[[f"fd_{space}_count" for space in spaces]]
  return environment.from_string(template.read_text("utf-8")).render(
    title=" on ".join(filter(None, ("scm_jax", ", ".join(names)))),
    charts=[(name, base64.b64encode(png).decode()) for name, png in charts],
    ours=tables.filled(_our_cells(rows, spaces)),
    grey=list(~rows.in_series.astype(bool)),
    published=tables.filled(map(_published_cells, theirs)),
    main=_main_features(entries),
    repeated=(counts > 1).any(axis=None),
    missing=missing,
    labels=sorted({str(n) for r in records if (n := r.get("labels"))}),
    warnings=sorted({str(line) for lines in warnings for line in lines}),
    sources=list(dict.fromkeys(entry.source for entry in entries)),
  )


def _main_features(entries: Sequence[Entry]) -> str:
  """Returns `classifier features`, or the features of each dataset."""
  found = score_table.main_spaces(entries)
  if len(set(found.values())) == 1:
    return f"{next(iter(found.values()))} features"
  return ", ".join(
    f"{space} features for {titles.dataset(name) or 'other data'}"
    for name, space in found.items()
  )


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


def _published_cells(row: dict[str, Any]) -> dict[str, str]:
  """Returns the cells of a published result."""
  return {
    "method": row["method"],
    **tables.cost_cells(row),
    "FID": tables.score(row["fid"]),
    "FD-DINOv2": tables.score(row["fdd"]),
    "source": row["source"],
    "note": row["note"],
  }
