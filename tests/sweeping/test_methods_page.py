"""examples/methods.py: the table of the methods, from the sweep's scores."""

import json
import pathlib
import runpy
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
PAGE = "a\n<!-- methods_{0} -->\nold\n<!-- /methods_{0} -->\nb\n"


@pytest.fixture
def main(monkeypatch):
  """Returns the script's `main`."""
  monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
  return runpy.run_path(str(EXAMPLES / "methods.py"))["main"]


def score(folder, point, seed, steps, nfe, distance):
  """Writes the scores of one run, of which the judge thinks twice as bad."""
  spaces = {"classifier": distance, "judge": 2 * distance}
  record = {"steps": steps, "nfe": nfe, "fd_infinity": spaces}
  own = folder / f"{point}_seed={seed}"
  own.mkdir()
  entries = [{"flags": [], "step": 1, "records": [record]}]
  (own / "scores.json").write_text(json.dumps(entries))


def test_each_method_is_held_against_the_teacher_of_its_seed(main, tmp_path):
  score(tmp_path, "teacher", 0, 32, 63, 0.1)
  score(tmp_path, "teacher", 1, 32, 63, 0.2)
  score(tmp_path, "scd", 0, 1, 1, 0.2)
  score(tmp_path, "scd", 1, 1, 1, 0.4)
  score(tmp_path, "cmt_scd", 0, 1, 1, 0.15)
  page = tmp_path / "reproduction.md"
  page.write_text(PAGE.format("classifier") + PAGE.format("judge"))
  assert main([str(tmp_path), str(tmp_path)]) == 0
  lines = page.read_text().splitlines()
  first, second = (i for i, line in enumerate(lines) if line == "a")
  rows = [[c.strip() for c in line.split("|")[1:3]] for line in lines]
  # The best in one step is first; ratios are to the teacher of each seed.
  assert rows[first + 4 : first + 6] == [
    ["CMT, then sCD", "0.150 (1.50)"],
    ["sCD", "0.300 ± 0.141 (2.00 ± 0.00)"],
  ]
  assert rows[second + 4][1] == "0.300 (1.50)"
  assert lines[first + 6].rstrip(" |").endswith("0.150 ± 0.071")
  assert "old" not in lines and lines[-1] == "b"


def test_nothing_to_read_is_said(main, tmp_path, capsys):
  assert main([str(tmp_path), str(tmp_path)]) == 1
  assert str(tmp_path) in capsys.readouterr().err
  page = tmp_path / "reproduction.md"
  score(tmp_path, "scd", 0, 1, 1, 0.2)
  page.write_text(PAGE.format("classifier") + PAGE.format("judge"))
  before = page.read_text()
  assert main([str(tmp_path), str(tmp_path)]) == 1
  assert "no teacher" in capsys.readouterr().err and page.read_text() == before
