"""A sweep whose run is a real one: trained, recognised, scored."""

import json
import pathlib

import pytest

DIGITS = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"


@pytest.mark.slow
def test_a_real_run(command, compilation_cache, monkeypatch, tmp_path):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(compilation_cache))
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
  code, out, err = command(*argv)
  assert code == 0, err
  table = (tmp_path / "table.md").read_text().splitlines()
  assert table[0] == "| point | NFE | seeds | fd_pixels | ratio |"
  assert table[2].startswith("| teacher | 1 | 1 | ") and len(table) == 3
  [scores] = json.loads((tmp_path / "teacher_seed=0/scores.json").read_text())
  [record] = scores["records"]
  assert scores["step"] == 4 and record["num"] == 100
  assert f"{record['fd']['pixels']:.3f}" in table[2]

  # Recognised: nothing is trained or scored again.
  before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.log")}
  code, again, err = command(*argv)
  assert (code, again) == (0, out), err
  assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.log")}

  # Another way to sample: other scores, by the same call as before.
  code, _, err = command(*argv, "--config.sample.sigma_max=5.0")
  assert code == 0, err
  [scores] = json.loads((tmp_path / "teacher_seed=0/scores.json").read_text())
  [other] = scores["records"]
  assert other["sigma_max"] == 5.0 and other["fd"] != record["fd"]
