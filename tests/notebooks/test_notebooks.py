"""Every code cell of the notebooks runs, on tiny random models.

By `exec` in a process of its own rather than by a Jupyter kernel, which would
bring some forty packages to say the same: cells are plain Python, and a test
holds them to that.
"""

import ast
import json
import pathlib

import pytest

from scm_jax.cli import configs
from scm_jax.training import workdir

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = ("channel_mult=(1,)", "num_blocks=1", "channels=8")
RUN = """
import json, sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
shown = []
plt.show = lambda: (shown.append(len(plt.gcf().axes)), plt.close("all"))
space = {"__name__": "__main__"}
for number, cell in enumerate(json.load(sys.stdin)):
  exec(compile(cell, f"cell {number}", "exec"), space)
print("shown", *shown)
"""


def code_cells(path):
  cells = json.loads(path.read_text())["cells"]
  return [cell for cell in cells if cell["cell_type"] == "code"]


def pictures(cell):
  data = [output.get("data", ()) for output in cell["outputs"]]
  return sum("image/png" in kinds for kinds in data)


@pytest.fixture(scope="module")
def runs(random_weights, tmp_path_factory):
  """A folder with the workdirs `teacher` and `scd`, of random weights."""
  folder = tmp_path_factory.mktemp("runs")
  for kind in ("teacher", "scd"):
    argv = [f"--config={ROOT}/configs/digits.py:run={kind},tiny"]
    argv += [f"--config.network.{field}" for field in SMALL]
    config = configs.parse_config([*argv, "--config.sample.solver_steps=3"])
    average = random_weights(workdir.param_shapes(config))
    workdir.write_averages(folder / kind, config, {"0.100": average}, 1, {})
  return folder


@pytest.fixture
def draw(data_dir, python):
  """`draw(path, cells, runs)`: how many pictures the cells show."""

  def run(path, cells, runs):
    environment = {
      "SCM_RUNS": str(runs),
      "TFDS_DATA_DIR": data_dir,
      "PYTHONPATH": str(ROOT),
      "JAX_PLATFORMS": "cpu",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    code = json.dumps(["".join(cell["source"]) for cell in cells])
    said = python("-c", RUN, cwd=path.parent, stdin=code, **environment)
    return len(said.splitlines()[-1].split()[1:])

  return run


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run(path, draw, runs):
  """Every picture that the shipped notebook shows is drawn."""
  cells = code_cells(path)
  assert draw(path, cells, runs) == sum(map(pictures, cells)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_opens_where_there_are_no_runs(path, draw, tmp_path):
  """As far as the first pictures."""
  cells = code_cells(path)[:3]
  assert draw(path, cells, tmp_path / "none") == sum(map(pictures, cells)) > 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_shipped_as_it_was_run(path):
  """From top to bottom, without errors, in plain Python, and small."""
  code = code_cells(path)
  assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
  for cell in code:
    ast.parse("".join(cell["source"]))  # no magics
    for output in cell["outputs"]:
      assert output["output_type"] in ("stream", "display_data"), output
      assert output.get("name") != "stderr", output
  assert path.stat().st_size < 300_000
  assert "/home/" not in path.read_text()


def test_all_are_found():
  assert [path.name for path in NOTEBOOKS] == ["digits.ipynb"]
