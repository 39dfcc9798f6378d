"""A sweep whose run is a real one: trained, recognised, scored."""

import json
import pathlib

import pytest

DIGITS = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"


@pytest.mark.slow
def test_a_real_run(printed, tmp_path):
  argv = [
    "sweep",
    f"--config={DIGITS}:tiny",
    f"--workdir={tmp_path}",
    "--only=teacher_seed=0",
    "--config.network.channel_mult=(1,)",
    "--config.total_steps=4",
    "--evaluate=--features=pixels",
    "--evaluate=--num=100",
    "--evaluate=--teacher-steps=1",
  ]
  out = printed(*argv)
  table = (tmp_path / "table.md").read_text().splitlines()
  assert table[0] == "| point | NFE | seeds | fd_pixels | ratio |"
  assert table[2].startswith("| teacher | 1 | 1 | ") and len(table) == 3
  [scores] = json.loads((tmp_path / "teacher_seed=0/scores.json").read_text())
  [record] = scores["records"]
  assert scores["step"] == 4 and record["num"] == 100
  assert f"{record['fd']['pixels']:.3f}" in table[2]

  # Recognised: nothing is trained or scored again.
  before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.log")}
  assert printed(*argv) == out
  assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.log")}

  # Another way to sample: other scores, by the same call as before.
  printed(*argv, "--config.sample.sigma_max=5.0")
  [scores] = json.loads((tmp_path / "teacher_seed=0/scores.json").read_text())
  [other] = scores["records"]
  assert other["sigma_max"] == 5.0 and other["fd"] != record["fd"]
