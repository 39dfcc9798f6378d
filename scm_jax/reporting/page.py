"""One self-contained HTML page: pictures, tables, and how they were made."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from scm_jax.reporting import drawing
from scm_jax.reporting.published import Figure
from scm_jax.reporting.statistic import Statistic, short
from scm_jax.reporting.summary import SETTINGS, SINGLE, Row

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; margin: 0 auto;
  max-width: 78rem; padding: 1.5rem; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
img { max-width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; white-space: nowrap; }
th, td { padding: .25rem .7rem; text-align: right;
  border-bottom: 1px solid #e3e3e3; font-variant-numeric: tabular-nums; }
th { border-bottom: 2px solid #999; vertical-align: bottom; }
th.word, td.word { text-align: left; }
tr.other td { color: #6b6b6b; }
caption { text-align: left; color: #555; padding-bottom: .4rem; }
"""
_HEADS = {
  "kid": "KID ×1000",
  "inception_score": "IS",
  "guidance": "guidance",
  "ema": "EMA",
  "t_mid": "t_mid",
  "solver": "solver",
  "sigma_max": "σ_max",
  "dtype": "type",
  "labels": "classes",
}
_WORDS = ("run", "data", "sampler", "method", "source", "note")
Cells = dict[str, str]


def render(
  title: str,
  pictures: Mapping[str, tuple[str, bytes]],
  rows: Sequence[Row],
  figures: Sequence[Figure],
  spaces: Sequence[str],
  notes: Sequence[str],
) -> str:
  """The page. It needs no script, no network and no other file.

  Args:
    title: of the page.
    pictures: by heading, what each shows in words, and its PNG.
    rows: ours, in the order of the table.
    figures: published ones, likewise.
    spaces: feature spaces, the main one first.
    notes: on how the figures were made, in plain text.
  """
  body = [f"<h1>{escape(title)}</h1>"]
  for heading, (words, png) in pictures.items():
    body.append(f"<h2>{escape(heading)}</h2>")
    data = base64.b64encode(png).decode()
    body.append(
      f'<img alt="{escape(words)}" src="data:image/png;base64,{data}">'
    )
  body.append("<h2>Runs</h2>")
  marks = [not row.shown for row in rows]
  caption = "Sorted by data and distance. Grey: in no line of the charts."
  body.append(_table([_ours(row, spaces) for row in rows], caption, marks))
  if figures:
    body.append("<h2>Published figures</h2>")
    caption = "As published; effective compute is computed here."
    body.append(_table([_theirs(figure) for figure in figures], caption))
  body.append("<h2>How these figures were made</h2>")
  items = "\n".join(f"<li>{escape(note)}</li>" for note in notes)
  body.append(f"<ul>\n{items}\n</ul>")
  return "\n".join(
    [
      "<!doctype html>",
      '<html lang="en">',
      '<head><meta charset="utf-8">',
      '<meta name="viewport" content="width=device-width, initial-scale=1">',
      f"<title>{escape(title)}</title>",
      f"<style>{_STYLE}</style></head>",
      "<body>",
      *body,
      "</body></html>",
      "",
    ]
  )


def _table(
  lines: Sequence[Cells], caption: str, marks: Sequence[bool] = ()
) -> str:
  """A table of the columns in which anything stands."""
  names = dict.fromkeys(name for line in lines for name in line)
  used = [n for n in names if any(line.get(n, "") for line in lines)]
  head = "".join(_cell("th", name, name) for name in used)
  body = []
  for index, line in enumerate(lines):
    mark = ' class="other"' if index < len(marks) and marks[index] else ""
    cells = (_cell("td", name, line.get(name, "") or "–") for name in used)
    body.append(f"<tr{mark}>{''.join(cells)}</tr>")
  inside = "\n".join(body)
  return (
    f'<div class="wide"><table><caption>{escape(caption)}</caption>\n'
    f"<thead><tr>{head}</tr></thead>\n<tbody>\n{inside}\n</tbody></table></div>"
  )


def _cell(tag: str, name: str, text: str) -> str:
  mark = ' class="word"' if name in _WORDS else ""
  return f"<{tag}{mark}>{escape(text)}</{tag}>"


def _ours(row: Row, spaces: Sequence[str]) -> Cells:
  cells = {
    "run": row.run,
    "data": drawing.dataset_name(row.dataset),
    "sampler": row.series,
    "NFE": _whole(row.nfe),
    "parameters": _whole(row.params),
    "compute": _significant(row.compute),
  }
  for name in SETTINGS:
    value = row.settings.get(name)
    cells[_HEADS[name]] = "" if value is None else str(value)
  cells |= {"images": _whole(row.num), "trainings": _whole(row.trainings)}
  for space in spaces:
    name = drawing.SPACES.get(space, f"FD {space}")
    found = row.fd.get(space)
    cells[name] = _statistic(found)
    cells[f"{name}, min"] = (
      short(found.least) if found and found.sd is not None else ""
    )
    cells[f"{name} / teacher"] = _statistic(row.ratio.get(space))
  for metric in SINGLE:
    value = row.single.get(metric)
    if value is not None and metric == "kid":
      value *= 1000
    cells[_HEADS.get(metric, metric)] = "" if value is None else short(value)
  return cells


def _theirs(figure: Figure) -> Cells:
  return {
    "method": figure.method,
    "NFE": _whole(figure.nfe),
    "parameters, M": _significant(figure.params_millions, 5),
    "compute": _significant(figure.compute),
    "FID": "" if figure.fid is None else f"{figure.fid:.2f}",
    "FD-DINOv2": "" if figure.fdd is None else f"{figure.fdd:.2f}",
    "source": figure.source,
    "note": figure.note,
  }


def _statistic(found: Statistic | None) -> str:
  return found.text() if found else ""


def _whole(value: Any) -> str:
  return "" if value is None else f"{value:,.0f}"


def _significant(value: float | None, digits: int = 3) -> str:
  if value is None:
    return ""
  return f"{value:,.0f}" if value >= 1000 else f"{value:.{digits}g}"
