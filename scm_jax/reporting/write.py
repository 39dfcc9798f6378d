"""From the reports of a set of runs to charts, tables and a page."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from scm_jax import files, spelling
from scm_jax.errors import ConfigError, UserError
from scm_jax.metrics import report
from scm_jax.reporting import (
  compute_chart,
  drawing,
  gather,
  merged,
  page,
  published,
  size_chart,
  summary,
)
from scm_jax.reporting.gather import Entry
from scm_jax.reporting.published import Figure
from scm_jax.reporting.summary import Row

COMPUTE, SIZE = "quality_compute.png", "size.png"
TABLE, PAGE = "rows.csv", "report.html"


class Written(NamedTuple):
  """What was written.

  Attributes:
    files: in the order in which they appeared.
    rows: of the table.
    notes: of the page.
  """

  files: tuple[str, ...]
  rows: tuple[Row, ...]
  notes: tuple[str, ...]


def write(
  workdirs: Sequence[str],
  reports: Sequence[str],
  out: str,
  figures: str = "imagenet512",
  features: Sequence[str] = (),
) -> Written:
  """Writes the charts, `report.json`, the CSV and the page into `out`.

  Args:
    workdirs: evaluated runs, or a sweep's folder.
    reports: `report.json` files.
    out: the folder.
    figures: which published ones; see `published.load`.
    features: spaces that the charts show; none is the main one.

  Raises:
    ConfigError: there are no such figures or features.
    UserError: a run was not evaluated, a file is damaged, or `out` is an
      evaluation's folder.
  """
  theirs = published.load(figures)
  folder = epath.Path(out)
  _check_free(folder / gather.REPORT)
  entries = gather.gather(workdirs, reports)
  spaces = _spaces(entries)
  _check_features(features, spaces)
  rows = _sorted(summary.rows(entries), spaces)
  panels = drawing.panels(rows, features or spaces[:1])
  theirs = sorted(theirs, key=lambda f: (f.fid is None, f.fid, f.compute or 0))
  pictures = {
    COMPUTE: compute_chart.draw(panels, theirs),
    SIZE: size_chart.draw(panels),
  }
  notes = tuple(_notes(rows, theirs, spaces, entries))
  html = page.render(
    _title(rows),
    {
      "Quality against sampling compute": (
        "Distance against effective sampling compute; the figures are in the "
        "tables below",
        pictures[COMPUTE],
      ),
      "Quality against model size": (
        "Distance, and its ratio to the teacher's, against parameters; the "
        "figures are in the tables below",
        pictures[SIZE],
      ),
    },
    rows,
    theirs,
    spaces,
    notes,
  )
  for name, png in pictures.items():
    files.write_bytes(folder / name, png)
  files.write_text(folder / TABLE, merged.to_csv(rows, theirs, spaces))
  report.write_report(folder / gather.REPORT, merged.merge(entries, rows))
  files.write_text(folder / PAGE, html)
  names = (*pictures, TABLE, gather.REPORT, PAGE)
  return Written(tuple(str(folder / n) for n in names), tuple(rows), notes)


def _check_free(file: epath.Path) -> None:
  """Raises UserError if a file is the report of an evaluation."""
  try:
    known = json.loads(file.read_text())
  except (OSError, ValueError):
    return
  if not isinstance(known, dict) or merged.SUMMARY not in known:
    raise UserError(f"{file} is an evaluation's; choose another --out")


def _spaces(entries: Sequence[Entry]) -> list[str]:
  """All feature spaces, the main one first."""
  main = summary.main_space(entries)
  names = dict.fromkeys(n for e in entries for n in e.record["fd"])
  if not names:
    raise UserError("the reports have no Fréchet distances")
  return [main, *(name for name in names if name != main)]


def _check_features(features: Sequence[str], spaces: Sequence[str]) -> None:
  for name in features:
    if name not in spaces:
      raise ConfigError(
        f"--features={name}: {spelling.hint(name, spaces, 'the reports have')}"
      )


def _sorted(rows: Sequence[Row], spaces: Sequence[str]) -> list[Row]:
  """By data, then by the main distance; those without one last."""
  data = list(dict.fromkeys(row.dataset for row in rows))

  def place(row: Row) -> tuple:
    found = row.fd.get(spaces[0])
    mean = found.mean if found else float("inf")
    return data.index(row.dataset), mean, row.run, row.nfe or 0

  return sorted(rows, key=place)


def _title(rows: Sequence[Row]) -> str:
  data = dict.fromkeys(drawing.dataset_name(r.dataset) for r in rows)
  names = ", ".join(filter(None, data))
  return f"scm_jax on {names}" if names else "scm_jax"


def _notes(
  rows: Sequence[Row],
  figures: Sequence[Figure],
  spaces: Sequence[str],
  entries: Sequence[Entry],
) -> list[str]:
  """What the figures mean, and what is missing."""
  notes = [
    "Compute is the parameters of the network that samples, in billions, times "
    "its evaluations for one image, guidance included; the number in a marker "
    "is that of the evaluations.",
    "FD is the Fréchet distance between features of samples and of the "
    "reference, FID in those of Inception-v3. KID, precision and the like are "
    f"in {spaces[0]} features.",
  ]
  if any(value.sd is not None for row in rows for value in row.fd.values()):
    notes.append(
      "± is the standard deviation of a sample (n - 1), over trainings with "
      "different seeds where there are several, else over seeds of sampling; "
      "min is the least of all single measurements. EDM2 publishes the minimum "
      "of several."
    )
  notes.append(
    "The ratio to the teacher is a run's distance over that of its own "
    "teacher, at the teacher's most evaluations, seed by seed; of several such "
    "scores of a teacher (guidance, averages) the best."
  )
  notes += _missing(rows)
  if any(not row.shown for row in rows):
    notes.append(
      "A line goes through the settings of the sampler that scored best at "
      "each size, of the objective that has most sizes; other settings are "
      "small and hollow."
    )
  if figures:
    notes.append(
      "Published figures are copied from the sources in their table, not "
      "measured here; they share axes with ours only in the same features, "
      "and even then data, images and class distributions may differ."
    )
  labels = {str(e.record["labels"]) for e in entries if e.record.get("labels")}
  if labels:
    notes.append(f"Classes of the samples: {', '.join(sorted(labels))}.")
  warnings = {str(w) for e in entries for w in e.record.get("warnings") or ()}
  sources = dict.fromkeys(e.source for e in entries)
  notes += [f"Beware: {line}" for line in sorted(warnings)]
  return [*notes, f"Reports read: {', '.join(sources)}."]


def _missing(rows: Sequence[Row]) -> list[str]:
  """Which rows lack something that the charts show."""
  notes = []
  alone = dict.fromkeys(r.run for r in rows if not r.teacher and not r.ratio)
  if alone:
    notes.append(
      "No ratio, because the teacher's score is not among the reports: "
      f"{', '.join(alone)}."
    )
  unknown = dict.fromkeys(r.run for r in rows if r.compute is None)
  if unknown:
    notes.append(
      "Not in the charts, because parameters or evaluations are not known: "
      f"{', '.join(unknown)}."
    )
  return notes
