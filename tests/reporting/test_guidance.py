"""Curves of scores against the guidance scale."""

import json

import pytest

from scm_jax.reporting import combined_report, guidance, tables


def candidate(scale, fd, **more):
  return {"guidance": scale, "fd": fd, "precision": 0.5 + scale / 10,
          "recall": 0.9 - scale / 10, **more}  # fmt: skip


@pytest.fixture
def curved(make):
  found = {"num": 60, "seed": 1, "by": "fd pixels"}
  return make.record("teacher", 4, {"pixels": 1.0}, 9) | {
    "selection": found
    | {
      "candidates": [
        candidate(1.5, 3.0, t_mid=1.1),
        candidate(1.0, 2.0, t_mid=1.1),
        candidate(1.5, 1.0, t_mid=0.8),
      ]
    }
  }


def test_each_scale_has_its_best_candidate(curved, make):
  plain = make.record("scd", 1, {"pixels": 1.0}, 9)
  old = curved | {"name": "old", "selection": {"candidates": [
    {"guidance": scale, "fd": 1.0} for scale in (1.0, 2.0)]}}  # fmt: skip
  one = curved | {"name": "one", "selection": {"candidates": [
    candidate(1.0, fd) for fd in (1.0, 2.0)]}}  # fmt: skip
  found = guidance.curves([plain, curved, old, one])
  assert found.guidance.tolist() == [1.0, 1.5]
  assert found.fd.tolist() == [2.0, 1.0]
  assert set(found.name) == {curved["name"]}
  assert len(guidance.curves([plain])) == 0
  assert guidance.draw(found).startswith(b"\x89PNG")


def test_reports_show_them(curved, make, tmp_path):
  text = tables.evaluation({"runs": [curved], "reference": {}})
  assert "at guidance 1.5: FD 1.000, precision 0.650, recall 0.750" in text
  guidance.write(tmp_path, [curved])
  assert (tmp_path / guidance.CHART).exists()
  run = make.run(tmp_path / "teacher", [curved])
  out = tmp_path / "out"
  found = combined_report.write([str(run)], [], str(out), "none")
  assert str(out / guidance.CHART) in found.files
  assert "against the guidance scale" in (out / "report.html").read_text()
  assert len(json.loads((out / "report.json").read_text())["runs"]) == 1
