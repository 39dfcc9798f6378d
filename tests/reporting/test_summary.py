"""Which records belong together, and what is said of them."""

import json
import statistics
from math import isnan

import pandas as pd
import pytest

from scm_jax.errors import UserError
from scm_jax.reporting import combined_report, reading, summary


def _rows(*folders):
  entries = reading.read([str(folder) for folder in folders], [])
  return summary.summarize(entries).to_dict("records")


def _ratio(*folders):
  """The ratio of the only student among some runs."""
  rows = _rows(*folders)
  (row,) = (row for row in rows if row["objective"] != "teacher")
  return row.get("ratio_pixels", float("nan"))


@pytest.fixture(scope="session")
def family_rows(family):
  rows = _rows(*sorted(family.iterdir()))
  return {(row["run"], row["series"]): row for row in rows}


@pytest.fixture
def scored(tmp_path, make):
  """`scored(name, fd, split, guide, objective)`: a report of its own.

  All are of one teacher, or of its student.
  """
  for name, teacher in (("teacher", ""), ("scd", str(tmp_path / "teacher"))):
    make.run(tmp_path / name, [], teacher)

  def write(name, fd, split=None, guide=None, objective="scd"):
    guide = guide and {"workdir": guide, "step": 5, "ema": "0.100"}
    record = make.record(objective, 1, {"pixels": fd}, 100, guide=guide)
    record |= {"workdir": str(tmp_path / objective), "training_step": 9}
    content = {
      "runs": [record],
      "reference": {"dataset": "scm_digits", "split": split},
    }
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(content))
    return str(file)

  return write


def test_other_references_and_guides_are_other_rows(scored):
  files = [
    scored("a", 3.0, "train"),
    scored("b", 2.0, "train[:500]"),
    scored("c", 1.0, "train", guide="weak"),
    scored("d", 1.5, "train", guide="weaker"),
  ]
  table = summary.summarize(reading.read([], files))
  assert table.fd_pixels.tolist() == [1.0, 1.5, 3.0, 2.0]  # by dataset
  assert table.fd_pixels_count.tolist() == [1] * 4


def test_guides_may_differ_in_their_seeds(tmp_path, make):
  folders = []
  for seed in range(2):
    weak = tmp_path / f"weak{seed}"
    make.run(weak, [], seed=seed)
    guide = {"workdir": f"{weak}/snapshots/500", "step": 500, "ema": "0.100"}
    record = make.record("teacher", 1, {"pixels": seed + 1.0}, 9, guide=guide)
    folders.append(make.run(tmp_path / f"run{seed}", [record], seed=seed))
  [row] = _rows(*folders)
  assert row["fd_pixels"] == 1.5 and row["fd_pixels_count"] == 2


@pytest.mark.parametrize(
  ("split", "ratio"), [("train[:300]", 1.5), (None, 1.5), ("train", None)]
)
def test_ratios_are_of_one_reference(scored, split, ratio):
  """As far as the reports say which it is."""
  teacher = scored("teacher", 2.0, split, objective="teacher")
  entries = reading.read([], [scored("scd", 3.0, "train[:300]"), teacher])
  rows = summary.summarize(entries).set_index("objective")
  found = rows.get("ratio_pixels", pd.Series(float("nan"), rows.index))["scd"]
  assert isnan(found) if ratio is None else found == ratio


def test_seeds_are_one_row(family_rows):
  # Per size a teacher (2 ways), sCD and sCT (3 each); and one left-out choice.
  assert len(family_rows) == 3 * 8 + 1
  row = family_rows["scd_16", "sCD, 2 steps"]
  assert (row["trainings"], row["params"], row["nfe"]) == (3, 80_000, 2)
  values = [1.2 * 0.7 * factor for factor in (0.9, 1.0, 1.1)]
  assert row["fd_classifier"] == pytest.approx(statistics.fmean(values))
  assert row["fd_classifier_sd"] == pytest.approx(statistics.stdev(values))
  assert row["fd_classifier_min"] == pytest.approx(min(values))
  assert row["fd_classifier_count"] == 3
  assert row["effective_compute"] == pytest.approx(80_000 / 1e9 * 2)
  assert row["precision"] == 0.75
  assert row["kid"] == pytest.approx(statistics.fmean(values) / 100)


@pytest.mark.parametrize(
  "fields",
  [
    {"microbatches": 4, "images_per_pass": 2},
    {"start": "elsewhere", "mesh": {"data": 8}},
    {
      "data": {"name": "scm_digits", "split": "train", "data_dir": "/elsewhere"}
    },
    {"network": {"channels": 16, "remat": "blocks"}},
  ],
)
def test_seeds_may_differ_in_how_and_where_they_ran(tmp_path, make, fields):
  runs = [
    make.run(
      tmp_path / f"scd_seed={seed}",
      [make.record("scd", 1, {"pixels": 1.0 + seed}, 9)],
      **({"seed": seed} | (fields if seed else {})),
    )
    for seed in range(2)
  ]
  (row,) = _rows(*runs)
  assert (row["trainings"], row["fd_pixels"]) == (2, 1.5)


def test_ratio_is_to_the_teacher_of_the_same_seed(family_rows):
  for (_, series), row in family_rows.items():
    if row["objective"] == "teacher":
      assert isnan(row["ratio_pixels"])
    elif series == "sCD, 2 steps":
      # Both scale with the seed, so the ratio does not vary.
      assert row["ratio_pixels"] == pytest.approx(1.2)
      assert row["ratio_pixels_sd"] == pytest.approx(0, abs=1e-12)


def test_series_goes_through_the_choice_with_most_sizes(family_rows):
  hidden = [key for key, row in family_rows.items() if not row["in_series"]]
  assert hidden == [("scd_16_raw", "sCD, 1 step")]


def test_best_settings_stand_for_a_size(tmp_path, make):
  run = make.run(
    tmp_path / "scd",
    [
      make.record("scd", 2, {"pixels": 3.0}, 100, guidance=1.0),
      make.record("scd", 2, {"pixels": 2.0}, 100, guidance=1.5) | {"name": "b"},
    ],
  )
  found = {row["guidance"]: row["in_series"] for row in _rows(run)}
  assert found == {1.0: False, 1.5: True}


def test_other_scores_are_in_one_kind_of_features(tmp_path, make):
  """A record in other features has no share in them, and is on no line."""
  both = {"classifier": 4.0, "pixels": 1.0}
  records = [
    make.record("scd", 2, fd, 100, guidance=scale, seed=seed) | {"name": name}
    for name, fd, scale, seed in (
      ("a", both, 1.0, 0),
      ("b", {"pixels": 1.2}, 1.0, 1),
      ("c", {"pixels": 0.5}, 1.5, 0),
    )
  ]
  one, other = _rows(make.run(tmp_path / "scd", records))
  assert (one["kid"], one["kid_count"]) == (0.04, 1)
  assert one["fd_pixels"] == pytest.approx(1.1)
  assert isnan(other["kid"]) and not other["in_series"] and one["in_series"]


def test_other_classes_or_types_are_other_rows(tmp_path, make):
  """Beside a report of before, which names classes alone."""
  new = {"sigma_max": 80.0, "dtype": "float32", "labels": "random"}
  found = [{"labels": "uniform"}, new, new | {"dtype": "bfloat16"}]
  records = [
    make.record("scd", 2, {"pixels": 3.0 + i}, 100, **fields) | {"name": str(i)}
    for i, fields in enumerate(found)
  ]
  rows = _rows(make.run(tmp_path / "scd", records))
  keys = ("labels", "dtype")
  assert [tuple(row[key] or None for key in keys) for row in rows] == [
    ("uniform", None),
    ("random", "float32"),
    ("random", "bfloat16"),
  ]


def test_seeds_of_sampling(tmp_path, make):
  """One training, two seeds: its own spread, paired with the teacher's."""

  def scored(objective, steps, *values):
    sets = [{"seed": i, "fd": {"pixels": v}} for i, v in enumerate(values)]
    mean = {"pixels": statistics.fmean(values)}
    return make.record(objective, steps, mean, 100, by_seed=sets)

  teacher = make.run(tmp_path / "t", [scored("teacher", 4, 1.0, 2.0)])
  student = make.run(tmp_path / "s", [scored("scd", 1, 3.0, 4.0)], str(teacher))
  row = _rows(teacher, student)[1]
  assert row["trainings"] == 1
  found = [row[f"fd_pixels{end}"] for end in ("", "_sd", "_min")]
  assert found == [3.5, pytest.approx(0.5**0.5), 3.0]
  assert row["ratio_pixels"] == pytest.approx((3 / 1 + 4 / 2) / 2)


def test_teacher_at_its_most_evaluations(tmp_path, make):
  scores = {1: 9.0, 4: 2.0}
  runs = [make.record("teacher", n, {"pixels": scores[n]}, 9) for n in scores]
  teacher = make.run(tmp_path / "t", runs)
  other = make.run(
    tmp_path / "o",
    [make.record("teacher", 8, {"pixels": 0.1}, 100)],
    network={"channels": 99},
  )
  student = make.run(
    tmp_path / "s", [make.record("sct", 1, {"pixels": 3.0}, 100)], str(teacher)
  )
  assert _ratio(teacher, other, student) == 1.5
  assert isnan(_ratio(other, student))


@pytest.mark.parametrize(
  ("how", "ratio"),
  [
    ({"labels": "random"}, 1.5),
    ({"labels": "data"}, None),
    ({"num": 50_000}, None),
    ({}, 1.5),
  ],
)
def test_ratios_are_of_one_protocol(tmp_path, make, how, ratio):
  """Exact shares of classes and many samples make a distance smaller."""
  record = make.record("teacher", 4, {"pixels": 2.0}, 100) | how
  teacher = make.run(tmp_path / "t", [record])
  record = make.record("scd", 1, {"pixels": 3.0}, 100, labels="random")
  student = make.run(tmp_path / "s", [record], str(teacher))
  found = _ratio(teacher, student)
  assert found == ratio or (ratio is None and isnan(found))


def test_references_of_one_dataset_stay_apart(tmp_path, make):
  """They have names of their own, also in the report that is read again."""
  for name, part in (("a", "train"), ("b", "train[:400]")):
    record = make.record("teacher", 4, {"pixels": 2.0}, 100)
    run = make.run(tmp_path / name, [record])
    content = json.loads((run / "report.json").read_text())
    content["reference"]["split"] = part
    (run / "report.json").write_text(json.dumps(content))
  folders = [str(tmp_path / name) for name in "ab"]
  wanted = {"scm_digits:train", "scm_digits:train[:400]"}
  assert {row["dataset"] for row in _rows(*folders)} == wanted
  assert {row["dataset"] for row in _rows(folders[0])} == {"scm_digits"}
  entries = reading.read(folders, [])
  merged = combined_report.merge(entries, summary.summarize(entries))
  (tmp_path / "report.json").write_text(json.dumps(merged))
  again = reading.read([], [str(tmp_path / "report.json")])
  assert {entry.dataset for entry in again} == wanted


def test_other_numbers_of_samples_are_other_rows(tmp_path, make):
  records = [
    make.record("scd", 1, {"pixels": 1.0}, 9, seed=seed, num_kept=[kept, kept])
    | {"name": f"seed {seed}"}
    for seed, kept in ((0, 1000), (1, 20))
  ]
  assert len(_rows(make.run(tmp_path / "s", records))) == 2


@pytest.mark.parametrize(("again", "said"), [(3.0, False), (9.0, True)])
def test_a_contradiction_is_noted(tmp_path, make, again, said):
  run = make.run(tmp_path / "s", [make.record("scd", 1, {"pixels": 3.0}, 9)])
  record = json.loads((run / "report.json").read_text())["runs"][0]
  other = tmp_path / "report.json"
  changed = record | {"fd": {"pixels": again}, "kid": {"pixels": 0.5}}
  report = {"runs": [changed], "reference": {"dataset": "scm_digits"}}
  other.write_text(json.dumps(report))
  rows = summary.summarize(reading.read([str(run)], [str(other)]))
  assert [*rows.contradicted] == [said] and rows.fd_pixels[0] == again


def test_students_of_different_teachers_stay_apart(tmp_path, make):
  def family(name, channels):
    own = {"network": {"channels": channels}}
    teacher = make.run(tmp_path / name / "teacher", [], **own)
    fd = {"pixels": float(channels)}
    student = [make.record("scd", 1, fd, 100)]
    return make.run(tmp_path / name / "scd", student, str(teacher))

  rows = _rows(family("small", 8), family("large", 16))
  assert [row["run"] for row in rows] == ["small/scd", "large/scd"]
  assert [row["trainings"] for row in rows] == [1, 1]


def test_reports_without_their_runs(tmp_path, make):
  """Reports that were copied: names say what repeats what."""
  files = []
  for seed, factor in enumerate((0.9, 1.1)):
    runs = [
      make.record("teacher", 4, {"pixels": factor}, 100) | {"workdir": "r/t"},
      make.record("scd", 1, {"pixels": 2 * factor}, 100)
      | {"workdir": f"r/scd_seed={seed}"},
    ]
    file = tmp_path / f"{seed}.json"
    file.write_text(json.dumps({"runs": runs[seed:], "reference": {}}))
    files.append(str(file))
  teacher, student = summary.summarize(reading.read([], files)).to_dict(
    "records"
  )
  assert (student["run"], student["dataset"]) == ("scd", "")
  assert student["trainings"] == 2
  assert student["ratio_pixels"] == pytest.approx((2 + 2.2 / 0.9) / 2)


def test_a_sweep_folder(tmp_path, make):
  for name, value in (("a", 1.0), ("b", 2.0)):
    run = make.run(tmp_path / name, [], network={"channels": value})
    (run / "report.json").unlink()
    old, new = (
      {**make.record("scd", 1, {"pixels": v}, 100), "workdir": str(run)}
      for v in (7.0, value)
    )
    scores = [{"flags": [], "step": 3, "records": [old]}]
    scores += [{"flags": [], "step": 9, "records": [new]}]
    (run / "scores.json").write_text(json.dumps(scores))
  rows = _rows(tmp_path)
  assert [(row["run"], row["fd_pixels"]) for row in rows] == [
    ("a", 1.0),
    ("b", 2.0),
  ]
  assert rows[0]["dataset"] == "scm_digits"
  (alone,) = _rows(tmp_path / "a")
  assert (alone["run"], alone["fd_pixels"]) == ("a", 1.0)


def test_missing_values_are_left_out(tmp_path, make):
  run = make.run(tmp_path / "scd", [make.record("scd", 1, {"pixels": 1.0}, 1)])
  content = json.loads((run / "report.json").read_text())
  bare = {"objective": "scd", "fd": {"pixels": None, "dinov2": 3.0}}
  content["runs"].append(bare)
  (run / "report.json").write_text(json.dumps(content))
  row = next(row for row in _rows(run) if row["fd_dinov2"] == 3.0)
  assert isnan(row["fd_pixels"]) and pd.isna(row["effective_compute"])
  assert pd.isna(row["nfe"]) and pd.isna(row["steps"])


def test_a_report_may_cover_other_workdirs(tmp_path, make):
  """As `evaluate` writes one of several runs into the first's folder."""
  first, second = (make.run(tmp_path / name, []) for name in ("a", "b"))
  (second / "report.json").unlink()
  runs = [
    {**make.record("scd", 1, {"pixels": 1.0}, 9), "workdir": str(folder)}
    for folder in (first, second)
  ]
  (first / "report.json").write_text(json.dumps({"runs": runs}))
  assert len(reading.read([str(first), str(second)], [])) == 2


def test_the_same_record_counts_once(tmp_path, make):
  run = make.run(tmp_path / "scd", [make.record("scd", 1, {"pixels": 1.0}, 1)])
  file = str(run / "report.json")
  copy = tmp_path / "copy.json"
  copy.write_text((run / "report.json").read_text())
  assert len(reading.read([str(run)], [file, str(copy)])) == 1


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("{", "cannot use .*report.json: Expecting"),
    ("3", "is not a report"),
    ('{"runs": 3}', "is not a report"),
    ('[{"records": null}]', "is not a report"),
    ('[{"step": "a", "records": []}]', "is not a report"),
    ('{"runs": [3]}', "run 1 is not a record"),
    ('{"runs": [{"objective": "scd"}]}', "run 1 has no 'fd'"),
    ('{"runs": [{"objective": "a", "fd": {}, "name": [1]}]}', "no text"),
    (
      '{"runs": [{"objective": "scd", "fd": {}, "by_seed": [{"seed": []}]}]}',
      "run 1 has a 'by_seed'",
    ),
    ('{"runs": []}', "no runs"),
  ],
)
def test_damaged_reports(tmp_path, text, said):
  (tmp_path / "report.json").write_text(text)
  with pytest.raises(UserError, match=said):
    reading.read([str(tmp_path)], [])
