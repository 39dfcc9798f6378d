"""Training on a user's own arrays: the example, and what it rests on."""

import json
import pathlib
import runpy

import numpy as np
import pytest
from PIL import Image

from scm_jax.data import pipeline

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "own_arrays.py"


@pytest.mark.slow
def test_the_example_runs(tmp_path, capsys):
  """A teacher and its student are trained, and the student draws."""
  runpy.run_path(str(EXAMPLE))["main"](tmp_path, 4)
  for run in ("teacher", "student"):
    lines = (tmp_path / run / "metrics.jsonl").read_text().splitlines()
    steps = {json.loads(line)["step"]: json.loads(line) for line in lines}
    assert max(steps) == 4 and np.isfinite(steps[4]["loss"])
  picture = np.asarray(Image.open(tmp_path / "samples.png"))
  assert picture.std() > 0
  assert capsys.readouterr().out.strip() == str(tmp_path / "samples.png")


def test_a_list_of_dicts_is_a_source():
  elements = [
    {"image": np.full((2, 2, 1), i, np.uint8), "label": i} for i in range(6)
  ]
  batches = pipeline.Batches(elements, batch_size=3, seed=0).iterate(1)
  for _ in range(3):
    batch = next(batches)
    assert batch["image"].shape == (3, 2, 2, 1)
    assert batch["label"].dtype == np.int32
    assert (batch["image"][:, 0, 0, 0] == batch["label"]).all()
