"""`scm-jax report`: the files, the page, and how mistakes end."""

import base64
import csv
import html.parser
import io
import json

import matplotlib.image
import pytest

from scm_jax.cli import main
from scm_jax.reporting import (
  charts,
  combined_report,
  page,
  published,
  reading,
  summary,
)

FILES = ("quality_compute.png", "size.png", "rows.csv", "report.json",
         "report.html")  # fmt: skip


class Page(html.parser.HTMLParser):
  """What a browser without scripts would show."""

  def __init__(self, text: str):
    super().__init__()
    self.tags, self.images, self.cells, self.open = [], [], [[]], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    found = dict(attrs)
    self.tags.append((tag, found))
    if tag == "img":
      self.images.append(found["src"])
    elif tag not in ("meta", "!doctype"):
      self.open.append(tag)
    if tag == "tr":
      self.cells.append([])
    if tag in ("td", "th"):
      self.cells[-1].append("")

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] in ("td", "th"):
      self.cells[-1][-1] += data


@pytest.fixture
def undrawn(monkeypatch):
  """Charts that take no time, for tests of everything else."""
  png = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEA"
    "sTYsJwAAAABJRU5ErkJggg=="
  )
  monkeypatch.setattr(charts, "draw_compute", lambda *_: png)
  monkeypatch.setattr(charts, "draw_sizes", lambda *_: png)


@pytest.fixture(scope="session")
def family_out(family, tmp_path_factory):
  """The report of all runs, and what the command printed."""
  out = tmp_path_factory.mktemp("report")
  folders = ",".join(str(folder) for folder in sorted(family.iterdir()))
  assert main.main(["report", f"--workdir={folders}", f"--out={out}"]) == 0
  return out


def test_page_is_self_contained(family_out):
  text = (family_out / "report.html").read_text()
  found = Page(text)
  assert not found.open
  assert {"script", "link", "iframe"}.isdisjoint(t for t, _ in found.tags)
  assert "http" not in text
  names = ("quality_compute.png", "size.png")
  for source, name in zip(found.images, names, strict=True):
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    png = base64.b64decode(data, validate=True)
    assert png == (family_out / name).read_bytes()
    assert matplotlib.image.imread(io.BytesIO(png)).shape[0] > 300
  rows = {tuple(cells[:3]): cells for cells in found.cells}
  assert "0.840 ± 0.084" in rows["scd_16", "digits", "sCD, 2 steps"]
  assert any("arXiv:2410.11081" in cells[-2] for cells in found.cells[-10:])
  assert "(n − 1)" in text


def test_rows_are_sorted_and_complete(family_out):
  rows = list(csv.DictReader((family_out / "rows.csv").open()))
  ours = [row for row in rows if row["origin"] == "this project"]
  assert len(ours) == 25
  distances = [float(row["fd_classifier"]) for row in ours]
  assert distances == sorted(distances)
  theirs = {(r["run"], r["nfe"]): r for r in rows if r not in ours}
  best = theirs["sCD-XXL", "2"]
  assert (best["fd_inception"], best["fd_dinov2"]) == ("1.88", "44.97")
  assert float(best["effective_compute"]) == pytest.approx(3.0468)
  assert best["fd_classifier"] == "" and "2410.11081" in best["source"]
  last = next(row for row in ours if row["run"] == "scd_8")
  assert float(last["ratio_pixels"]) == pytest.approx(1.1)


def test_json_is_a_report(family_out, family, undrawn, tmp_path):
  merged = json.loads((family_out / "report.json").read_text())
  assert {"runs", "reference"} <= set(merged)
  assert len(merged["runs"]) == 3 * 3 * (2 + 3 + 3) + 3
  names = [run["name"] for run in merged["runs"]]
  assert len(set(names)) == len(names)
  assert merged["reference"]["dataset"] == "scm_digits"
  assert len(merged["summary"]) == 25
  # A gathered report may be gathered again, with what is in it already.
  again = combined_report.write(
    [str(family / "scd_8_seed=0")], [str(family_out / "report.json")],
    str(tmp_path / "again"), "none",
  )  # fmt: skip
  assert len(again.rows) == 25
  text = (tmp_path / "again" / "report.json").read_text()
  assert json.loads(text)["summary"][0]["fd"] == merged["summary"][0]["fd"]


def test_same_bytes_again(tmp_path, make):
  run = make.run(tmp_path / "scd", [make.record("scd", 1, {"pixels": 1.0}, 9)])
  before = []
  for _ in range(2):
    combined_report.write([str(run)], [], str(tmp_path / "out"), "none")
    before.append([(tmp_path / "out" / name).read_bytes() for name in FILES])
  assert before[0] == before[1]


def test_budgets_of_trainings_are_shown_where_they_are_known(tmp_path, make):
  """A report of an earlier version has none."""
  budget = {"training_evaluations": 1_920_000, "evaluations_per_sample": 5}
  runs = [
    make.run(
      tmp_path / name,
      [make.record("scd", 1, {"pixels": 1.0}, 9, **known)],
      objective={"P_mean": place},
    )
    for place, (name, known) in enumerate({"new": budget, "old": {}}.items())
  ]
  out = tmp_path / "out"
  both = combined_report.write([*map(str, runs)], [], str(out), "none")
  assert str(out / "quality_training.png") in both.files
  kept = json.loads((out / "report.json").read_text())["summary"]
  found = {row["run"]: row["training_evaluations"] for row in kept}
  assert found == {"new": 1_920_000, "old": None}
  cells = Page((out / "report.html").read_text()).cells
  [new] = [row for row in cells if row[:1] == ["new"]]
  assert "1.92M" in new and "5" in new
  alone = combined_report.write([str(runs[1])], [], str(tmp_path / "1"), "none")
  assert not any("quality_training" in name for name in alone.files)


def test_words_are_escaped(undrawn, tmp_path, make):
  run = make.run(
    tmp_path / "<script>alert(1)</script>&",
    [make.record("scd", 1, {"pixels": 1.0}, 9, warnings=["a < b"])],
  )
  combined_report.write([str(run)], [], str(tmp_path / "out"), "none")
  text = (tmp_path / "out" / "report.html").read_text()
  assert "<script" not in text and "Warning: a &lt; b" in text
  found = Page(text)
  assert not found.open
  assert any("script>&" in cell for row in found.cells for cell in row)
  entries = reading.read([str(run)], [])
  text = "method,nfe,params_millions,fid,source\n<b>,2,9,1.5,a&b\n"
  results = published.parse(text, "mine.csv")
  rows = summary.summarize(entries)
  text = page.render([], rows, results, entries, ["<n>"])
  assert "<b>" not in text and "<n>" not in text and "a&amp;b" in text


def test_what_is_missing_is_noted(undrawn, tmp_path, make, capsys):
  run = make.run(tmp_path / "scd", [make.record("scd", 1, {"pixels": 1.0}, 9)])
  content = json.loads((run / "report.json").read_text())
  content["runs"].append({"objective": "sct", "fd": {"dinov2": 2.0}})
  (run / "report.json").write_text(json.dumps(content))
  argv = ["report", f"--workdir={run}", f"--out={tmp_path / 'out'}"]
  assert main.main([*argv, "--features=pixels,dinov2"]) == 0
  out = capsys.readouterr().out
  assert "No ratio, because the teacher's score, " in out
  assert "parameters or evaluations are not known" in out
  assert all((tmp_path / "out" / name).exists() for name in FILES)


@pytest.mark.parametrize("fd", [{}, {"pixels": None}])
def test_reports_without_distances(tmp_path, make, refused, fd):
  record = make.record("scd", 1, {}, 9) | {"fd": fd}
  run = make.run(tmp_path / "scd", [record])
  line = refused(1, f"--workdir={run}", f"--out={tmp_path / 'out'}")
  assert "no Fréchet distances" in line


def test_published_evaluations_may_be_an_average(undrawn, tmp_path, make):
  run = make.run(tmp_path / "scd", [make.record("scd", 1, {"pixels": 1.0}, 9)])
  file = tmp_path / "mine.csv"
  file.write_text("method,nfe,params_millions,fid,source\nx,35.5,9,1.5,a\n")
  combined_report.write([str(run)], [], str(tmp_path / "out"), str(file))
  assert "35.5" in (tmp_path / "out" / "rows.csv").read_text()


def test_two_datasets(undrawn, tmp_path, make):
  runs = [
    make.run(
      tmp_path / name,
      [make.record("scd", 1, {"classifier": 1.0}, 9)],
      data={"name": name},
    )
    for name in ("scm_digits", "scm_mnist5k")
  ]
  out = tmp_path / "out"
  folders = [str(run) for run in runs]
  written = combined_report.write(folders, [], str(out), "none")
  assert list(written.rows.dataset) == ["scm_digits", "scm_mnist5k"]
  merged = json.loads((out / "report.json").read_text())
  assert merged["reference"] == {} and len(merged["references"]) == 2
  assert "digits, MNIST" in (out / "report.html").read_text()


def test_mistakes_end_in_one_line(tmp_path, make, refused):
  run = make.run(tmp_path / "scd", [make.record("scd", 1, {"pixels": 1.0}, 9)])
  bare = make.run(tmp_path / "bare", [])
  (bare / "report.json").unlink()
  out = f"--out={tmp_path / 'out'}"
  line = refused(1, f"--workdir={run},{bare}", out)
  assert f"scm-jax evaluate --workdir={bare}" in line
  assert str(tmp_path) in refused(1, f"--workdir={tmp_path}", out)
  assert f"{run}x" in refused(1, f"--workdir={run}x", out)
  assert f"{run}/x.json" in refused(1, f"--report={run}/x.json", out)
  line = refused(1, f"--workdir={run}", f"--out={run}")
  assert f"{run}/report.json" in line and "--out" in line
  line = refused(2, f"--workdir={run}", out, "--features=pixel")
  assert "did you mean 'pixels'" in line
  assert "--workdir" in refused(2, out)
  line = refused(2, f"--workdir={run}", out, "--published=cifar")
  assert "did you mean 'cifar10'" in line
  assert not (tmp_path / "out").exists()


def test_a_second_stage_has_its_ratio_to_the_diffusion_teacher(make, tmp_path):
  """Its own teacher is the first stage, which has one too."""
  scored = lambda run, fd, teacher: make.run(
    tmp_path / fd, [make.record(run, 1, {"pixels": float(fd)}, 9)], teacher
  )
  teacher = scored("teacher", "2", "")
  first = scored("sct", "8", str(teacher))
  second = scored("scd", "5", str(first))
  rows = summary.summarize(reading.read(list(map(str, (teacher, second))), []))
  ratio = rows.set_index("objective").ratio_pixels
  assert ratio["scd"] == 2.5
