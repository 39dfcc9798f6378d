"""The paper in miniature: its points, and the page made of their scores."""

import csv
import pathlib
import re
import shutil

import pytest

from scm_jax.cli import configs
from scm_jax.sweeping import points, runs

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "miniature.py")


@pytest.fixture(scope="module")
def script(load_module):
  """Returns the module examples/reproduction.py."""
  return load_module("../examples/reproduction.py")


@pytest.fixture(scope="module")
def resolved(tmp_path_factory) -> list[runs.Run]:
  """Returns the sweep's runs with the first seed."""
  made = points.checked(configs.load_sweep(CONFIG))
  made = points.chosen(made, "*_seed=0")
  folder = tmp_path_factory.mktemp("none")
  return runs.resolve(made, CONFIG, {}, folder, configs.parse_config)


def test_every_point_has_three_seeds(resolved):
  every = points.checked(configs.load_sweep(CONFIG))
  assert len(every) == 3 * len(resolved)


def test_each_point_is_the_run_of_its_name(resolved):
  for run in resolved:
    kind, _, rest = run.point.group.partition("_")
    assert run.config.run == kind
    if rest.isdigit():
      assert run.config.network.channels == int(rest)
    assert ("mnist" in rest) == ("mnist" in run.config.data.name)


def _table(path: pathlib.Path, resolved) -> None:
  """Writes a table.csv with an invented score for each of the sweep's rows."""
  rows = []
  for run in resolved:
    teacher = run.config.run == "teacher"
    for sampling in run.point.sampling:
      for steps in sampling["teacher_steps" if teacher else "steps"]:
        rows.append(
          {
            "point": run.point.group,
            "guidance": sampling.get("guidance", ""),
            "objective": run.config.run,
            "steps": steps,
            "nfe": 2 * steps - 1 if teacher else steps,
            "params": run.config.network.channels**2 * 300,
            "failed": 0,
            "fd_classifier": 1 / steps + run.config.network.channels,
            "fd_classifier_sd": 0.25,
            "ratio": "" if teacher else 1.5,
            "ratio_sd": "" if teacher else 0.5,
          }
        )
  with open(path, "w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)


def test_the_page_is_made_of_the_table(script, resolved, tmp_path):
  _table(tmp_path / "table.csv", resolved)
  page = tmp_path / "reproduction.md"
  shutil.copy(ROOT / "docs" / "reproduction.md", page)
  before = re.sub(r"(<!-- (\w+) -->).*?(<!-- /\2 -->)", "", page.read_text(),
                  flags=re.S)  # fmt: skip
  argv = [str(tmp_path / "table.csv"), str(tmp_path)]
  assert script.main(argv) == 0
  made = page.read_text()
  # 256 channels squared times 300 parameters; a half more at two steps.
  assert (
    "| 77 | sCD | 17.000 ± 0.250 | 16.500 ± 0.250 | 16.250 ± 0.250 | – |"
    in (made)
  )
  assert "| 19 | teacher | 9.000" in made and "| 8.031 ± 0.250 |" in made
  assert "| no tangent warm-up | 17.000 ± 0.250 |" in made
  assert "| 1.15 | 17.000 ± 0.250 |" in made
  assert made.count("1.500 ± 0.500") == 3 * 6
  # Only the tables have changed, and again changes nothing.
  words = re.sub(r"(<!-- (\w+) -->).*?(<!-- /\2 -->)", "", made, flags=re.S)
  assert words == before
  assert script.main(argv) == 0 and page.read_text() == made
  pictures = sorted(path.name for path in (tmp_path / "reproduction").iterdir())
  assert pictures == ["choices.png", "quality.png", "ratio.png"]
  for name in pictures:
    assert f"](reproduction/{name})" in made


@pytest.mark.slow
def test_a_part_of_the_runs_makes_a_part_of_the_page(
  script, resolved, tmp_path
):
  few = [run for run in resolved if run.point.group.endswith("_16")]
  _table(tmp_path / "table.csv", few)
  shutil.copy(ROOT / "docs" / "reproduction.md", tmp_path)
  assert script.main([str(tmp_path / "table.csv"), str(tmp_path)]) == 0
  made = (tmp_path / "reproduction.md").read_text()
  assert "| no tangent warm-up | – | – | – | 0 |" in made


def test_mistakes_end_in_one_line(script, tmp_path, capsys):
  assert script.main([]) == 2
  assert script.main([str(tmp_path / "no.csv"), str(tmp_path)]) == 1
  assert capsys.readouterr().err.splitlines() == [
    "usage: reproduction.py TABLE.csv DOCS",
    f"reproduction.py: {tmp_path}/no.csv: No such file or directory",
  ]
