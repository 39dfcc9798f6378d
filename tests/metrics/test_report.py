"""The contract of report.json, and the table."""

import json

import pytest

from scm_jax import errors
from scm_jax.metrics import report

_SCORES = {
  "fd": {"pixels": 2.0, "classifier": 0.25},
  "kid": {"pixels": 0.01, "classifier": -0.002},
  "precision": {"pixels": 0.5, "classifier": 0.75},
  "recall": {"pixels": 0.5, "classifier": 0.625},
  "num": 1797,
  "num_reference": 1797,
}


def _record(name="sCD, 2 steps", **changes):
  arguments = {
    "steps": 2,
    "nfe": 2,
    "params": 250_000_000,
    "scores": _SCORES,
    "seed": 3,
    **changes,
  }
  return report.run_record(name, "scd", **arguments)


def test_record_holds_the_contract():
  record = _record(guidance=1.5)
  assert set(record) >= {
    "name",
    "objective",
    "steps",
    "nfe",
    "params",
    "fd",
    "num",
    "seed",
    "effective_compute",
  }
  assert record["effective_compute"] == pytest.approx(0.5)
  assert record["fd"] == _SCORES["fd"]
  assert (record["seed"], record["guidance"]) == (3, 1.5)


def test_json_round_trip(tmp_path):
  written = report.make_report([_record()], {"fd": {"pixels": 0.1}, "num": 9})
  path = report.write_report(tmp_path / "out" / "report.json", written)
  read = json.loads(path.read_text())
  assert set(read) == {"runs", "reference"}
  assert read == written


def test_json_has_no_nan(tmp_path):
  scores = {**_SCORES, "fd": {"pixels": float("nan")}}
  bad = report.make_report([_record(scores=scores)], {})
  with pytest.raises(ValueError, match="not JSON compliant"):
    report.write_report(tmp_path / "report.json", bad)
  assert not list(tmp_path.iterdir())


def test_unwritable_report_is_a_user_error(tmp_path):
  (tmp_path / "file").write_bytes(b"")
  with pytest.raises(errors.UserError, match="cannot write"):
    report.write_report(
      tmp_path / "file" / "report.json", report.make_report([_record()], {})
    )


def test_records_need_scores_and_names_of_their_own():
  with pytest.raises(ValueError, match="lack 'fd'"):
    _record(scores={"num": 3})
  with pytest.raises(ValueError, match="must differ"):
    report.make_report([_record(), _record()], {})


def test_table_shows_every_run_and_the_floor():
  runs = [_record(), _record("teacher, 63 NFE", nfe=63, params=217_000)]
  table = report.format_table(
    report.make_report(runs, {"fd": {"pixels": 0.125}, "num": 898})
  )
  head, rule, student, teacher, floor, note = table.splitlines()
  for column in ("run", "NFE", "FD pixels", "FD classifier", "KID", "recall"):
    assert column in head
  assert set(rule) == {"-", " "}
  assert student.split()[-10:] == [
    "250M",
    "0.5",
    "1797",
    "2.000",
    "0.250",
    "-2.000",
    "0.750",
    "0.625",
    "-",
    "-",
  ]
  assert teacher.startswith("teacher, 63 NFE")
  assert teacher.split()[3:6] == ["63", "217k", "0.0137"]
  assert floor.startswith("real, split halves")
  assert floor.split()[-8:] == ["898", "0.125", *"------"]
  assert len({len(line) for line in (head, rule, student, teacher, floor)}) == 1
  assert "'classifier' features" in note


def test_table_without_floor_or_runs():
  table = report.format_table(report.make_report([_record()], {}))
  assert "split halves" not in table
  assert report.format_table(report.make_report([], {})) == "no runs"


def test_main_features_are_not_the_pixels():
  assert report.main_features({"runs": [_record()]}) == "classifier"
  alone = _record(scores={"fd": {"pixels": 1.0}, "num": 2})
  assert report.main_features({"runs": [alone]}) == "pixels"
