"""The contract of report.json, and the table of an evaluation."""

import json
import re

import pytest

from scm_jax import errors
from scm_jax.reporting import records as report
from scm_jax.reporting import tables

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


def _cells(line):
  return re.split(r"\s{2,}", line.strip())


def test_table_shows_every_run_and_the_floor():
  runs = [_record(), _record("teacher, 63 NFE", nfe=63, params=217_000)]
  table = tables.evaluation(
    report.make_report(runs, {"fd": {"pixels": 0.125}, "num": 898})
  )
  head, *lines = (_cells(line) for line in table.splitlines()[:4])
  student, teacher, floor = (
    dict(zip(head, line, strict=True)) for line in lines
  )
  assert student == {
    "run": "sCD, 2 steps",
    "NFE": "2",
    "params": "250M",
    "compute": "0.5",
    "num": "1,797",
    "FD classifier": "0.250",
    "FD pixels": "2.000",
    "KID ×1000": "-2.000",
    "precision": "0.750",
    "recall": "0.625",
  }
  assert teacher["run"] == "teacher, 63 NFE"
  assert (teacher["params"], teacher["compute"]) == ("217k", "0.0137")
  assert (floor["num"], floor["FD pixels"]) == ("898", "0.125")
  assert floor["FD classifier"] == floor["recall"] == tables.MISSING


def test_table_over_seeds_has_the_sample_deviation():
  sets = [{"seed": i, "fd": {"pixels": v}} for i, v in enumerate((1.0, 2.0))]
  run = _record(scores={"fd": {"pixels": 1.5}, "num": 9}, by_seed=sets)
  table = tables.evaluation(report.make_report([run], {}))
  assert "1.500 ± 0.707" in table and "1.000" in table


def test_extrapolated_distance_is_a_score_with_its_standard_error():
  """It is no distance in a feature space of its own."""
  values = {
    "fd_infinity": {"pixels": 1.5, "classifier": 0.041},
    "fd_infinity_se": {"pixels": 0.5, "classifier": 0.003},
  }
  run = _record(scores=_SCORES | values)
  reference = {"fd_floor": {"pixels": 0.5, "classifier": 0.007}}
  head, row, *notes = tables.evaluation(
    report.make_report([run], reference)
  ).splitlines()
  assert head.count("FD") == 3 and head.count("FD∞") == 1
  assert "0.041 ± 0.003" in row
  assert any("FD∞" in note and "0.007" in note for note in notes)


def test_a_new_score_needs_no_change_of_the_table():
  run = _record(scores={**_SCORES, "novelty": {"classifier": 0.5}})
  head = tables.evaluation(report.make_report([run], {})).splitlines()[0]
  assert "novelty" in head


def test_table_without_floor_or_runs():
  table = tables.evaluation(report.make_report([_record()], {}))
  assert len(table.splitlines()) == 3  # head, run and note
  assert tables.evaluation(report.make_report([], {}))


def test_main_features_are_not_the_pixels():
  assert report.main_space(["pixels", "classifier"]) == "classifier"
  assert report.main_space(["pixels"]) == "pixels"


def test_numbers_are_short():
  values = [1_523_400_000, 217_000, 999]
  assert [tables.count(v) for v in values] == ["1.523B", "217k", "999"]
  assert [tables.score(v) for v in (0.17449, 0.00012, 0.0, None)] == [
    "0.174",
    "0.00012",
    "0.000",
    "",
  ]
