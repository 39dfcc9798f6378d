"""`scm-jax sweep` on this machine, with a stand-in for the trainings."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from scm_jax.sweeping import launchers

NAMES = [
  f"{name}_seed={seed}"
  for seed in (0, 1)
  for name in ("teacher", "scd_tangent_c=0.1", "scd_tangent_c=1.0")
]


def trained(calls) -> list[str]:
  """Returns the names of the runs that were trained."""
  words = [call for call in calls if call.startswith("train ")]
  return [call.rpartition("/")[2] for call in words]


def test_every_point_is_trained_once_and_scored(sweep, config, tmp_path):
  code, out, err, calls = sweep("--parallel=2", "--evaluate=--num=50")
  assert code == 0, err
  assert sorted(trained(calls)) == sorted(NAMES)
  folder = tmp_path / "sweep"
  student = next(call for call in calls if call.endswith(NAMES[5]))
  assert student == (
    f"train --config={config}:run=scd,tiny --config.objective.tangent_c=1.0"
    f" --config.seed=1 --config.teacher={folder}/teacher_seed=1"
    f" --workdir={folder}/{NAMES[5]}"
  )
  # One call for the teachers, and one for each way in which students sample.
  evaluations = [call for call in calls if call.startswith("evaluate ")]
  assert len(evaluations) == 3
  assert all(call.count("--num=50") == 1 for call in evaluations)
  assert sum("--steps=2 --t-mid=0.8" in call for call in evaluations) == 1
  assert (folder / "table.png").read_bytes()[:4] == b"\x89PNG"
  assert f"table: {folder}/table.csv" in out

  # Again, there is nothing to do; the table is the same.
  before = (folder / "table.csv").read_text()
  code, again, _, calls = sweep("--evaluate=--num=50")
  assert (code, again, calls) == (0, out, [])
  assert (folder / "table.csv").read_text() == before
  # Another question to the same runs.
  _, _, _, calls = sweep("--evaluate=--num=60")
  assert len(calls) == 3 and not trained(calls)


def test_the_table_names_what_further_flags_replace(sweep, tmp_path):
  assert sweep("--evaluate=--t-mid=0.5")[0] == 0
  with open(tmp_path / "sweep" / "table.csv", newline="") as file:
    ways = {row["sampling"] for row in csv.DictReader(file)}
  assert ways == {"", "t_mid=0.5"}


def test_the_table(sweep, tmp_path):
  assert sweep()[0] == 0
  with open(tmp_path / "sweep" / "table.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  # The teacher at 63 evaluations and 1, two students at 1, 2 and 2 steps.
  assert [(r["point"], r["sampling"], r["nfe"]) for r in rows] == [
    ("teacher", "", "63"),
    ("teacher", "", "1"),
    *(
      (f"scd_tangent_c={c}", *rest)
      for c in ("0.1", "1.0")
      for rest in (("", "1"), ("", "2"), ("t_mid=0.8", "2"))
    ),
  ]
  row = rows[7]
  # 3 + 1.0 / 2 + 0.8 and one more, over the teachers' 1 and 2.
  expected = {"fd_classifier": 4.8, "fd_pixels": 9.6}
  expected |= {"fd_classifier_sd": 0.5**0.5, "seeds": 2, "failed": 0}
  expected |= {"ratio": (4.3 / 1 + 5.3 / 2) / 2, "precision": 0.5}
  for name, value in expected.items():
    assert float(row[name]) == pytest.approx(value, rel=1e-5), name
  assert row["objective.tangent_c"] == "1" and row["t_mid"] == "0.8"
  # A field that a point does not set has its config's value.
  assert rows[0]["objective.tangent_c"] == "0.1" and rows[0]["run"] == "teacher"


def test_a_failed_run_is_reported_and_tried_again_on_request(
  sweep, monkeypatch, tmp_path
):
  monkeypatch.setenv("FAIL", "teacher_seed=1")
  code, out, err, calls = sweep()
  assert code == 1
  assert "teacher_seed=1 failed: scm-jax train: diverged by step 2" in err
  last = err.splitlines()[-1]
  assert last.startswith("scm-jax sweep: 1 of 6 runs and 0 evaluations failed")
  # Its students do not begin; the others are done and scored.
  assert trained(calls) == ["teacher_seed=0", *NAMES[1:3], "teacher_seed=1"]
  assert "1 (1 failed)" in out

  code, _, err, calls = sweep()
  assert (code, calls) == (1, []) and "diverged by step 2" in err
  monkeypatch.delenv("FAIL")
  code, _, _, calls = sweep("--retry")
  assert code == 0 and trained(calls) == NAMES[3:]
  assert not (tmp_path / "sweep" / "teacher_seed=1" / "failed.json").exists()


@pytest.mark.slow
def test_every_run_failed(sweep, monkeypatch, tmp_path):
  monkeypatch.setenv("FAIL", "teacher_seed=0")
  code, out, _, _ = sweep("--only=teacher_seed=0")
  assert code == 1 and "0 (1 failed)" in out


def test_ctrl_c_saves_and_the_same_command_continues(
  sweep, config, tmp_path, program
):
  folder = tmp_path / "sweep"
  code = (
    "import sys; from scm_jax.cli import main\n"
    "from scm_jax.sweeping import launchers\n"
    f"launchers.PROGRAM = {launchers.PROGRAM!r}\n"
    "sys.exit(main.main(sys.argv[1:]))"
  )
  argv = ["sweep", f"--config={config}:tiny", f"--workdir={folder}"]
  child = subprocess.Popen(
    [sys.executable, "-c", code, *argv],
    env={**os.environ, "HANG": NAMES[1]},
    stderr=subprocess.PIPE,
    text=True,
  )
  while not (folder / NAMES[1] / "hangs").exists():
    time.sleep(0.02)
  # Meanwhile the folder is this sweep's alone.
  code, _, err, _ = sweep()
  assert code == 1 and f"works in {folder}" in err
  child.send_signal(signal.SIGINT)
  _, err = child.communicate(timeout=300)
  assert child.returncode == 130, err
  assert f"{NAMES[1]}: stopped" in err
  assert not (folder / NAMES[1] / "failed.json").exists()
  code, _, _, calls = sweep()
  assert code == 0 and trained(calls) == NAMES[1:]


def test_dry_run_prints_what_would_run_and_does_nothing(sweep, tmp_path):
  code, out, err, calls = sweep("--dry-run", "--config.batch_size=7")
  assert (code, err, calls) == (0, "", [])
  assert not (tmp_path / "sweep").exists()
  lines = out.splitlines()
  assert [line.rpartition("/")[2] for line in lines[:6]] == NAMES
  assert all("--config.batch_size=7" in line for line in lines[:6])
  assert lines[6] == "# then, when all have ended:"
  assert all(x.startswith("scm-jax evaluate ") for x in lines[7:])
  folders = [x.rpartition("--out=")[2].split()[0] for x in lines[7:]]
  assert len(set(folders)) == len(folders) > 1


def test_a_run_that_failed_behind_its_last_checkpoint_is_not_finished(
  sweep, tmp_path
):
  assert sweep()[0] == 0
  folder = tmp_path / "sweep" / NAMES[-1]
  (folder / "owed.json").write_text('{"step": 3}')
  (folder / "failed.json").write_text('{"line": "no reference"}')
  code, _, err, calls = sweep()
  assert (code, calls) == (1, []) and "no reference" in err
  (folder / "owed.json").unlink()  # as the training does, once it went on
  assert sweep()[0] == 0


def test_a_run_of_another_config_is_refused(sweep, tmp_path):
  from scm_jax import configuration
  from scm_jax.defaults import get_defaults

  folder = tmp_path / "sweep" / "teacher_seed=0"
  folder.mkdir(parents=True)
  config = get_defaults()
  config.batch_size = 3
  (folder / "config.json").write_text(configuration.to_json(config))
  code, _, err, calls = sweep()
  assert (code, calls) == (2, [])
  assert "belongs to another config" in err and "batch_size: 3" in err


def test_another_way_to_sample_is_scored_and_trained_no_more(sweep, tmp_path):
  from scm_jax import configuration
  from scm_jax.configuration import from_json
  from scm_jax.defaults import get_defaults

  assert sweep()[0] == 0
  student = tmp_path / "sweep" / NAMES[1]
  config = get_defaults()
  config.run, config.total_steps, config.data.name = "scd", 3, "fake"
  config.teacher = str(tmp_path / "sweep" / "teacher_seed=0")
  (student / "config.json").write_text(configuration.to_json(config))
  assert sweep()[3] == []  # it is drawn as it was
  _, _, _, calls = sweep("--config.sample.gamma=0.5")
  assert not trained(calls)
  # Both ways to sample it, of it alone.
  assert len(calls) == 2
  assert all(f"--workdir={student} " in call for call in calls)
  text = (student / "config.json").read_text()
  assert from_json(text).sample.gamma == 0.5
  assert sweep("--config.sample.gamma=0.5")[3] == []
  flags = ["--config.sample.gamma=0.5"]
  for field in ("evaluate.reference", "data.autoencoder"):
    flags.append(f"--config.{field}=other")
    assert sweep(*flags, "--dry-run")[3] == []
    assert len(sweep(*flags)[3]) == 2


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--config.seed=3"], "--config.seed"),
    (["--config.batch_sise=3"], "did you mean 'batch_size'?"),
    (["--launcher=gcp"], "bucket"),
    (["--launch=--spot"], "--launch"),
    (["--evaluate=num"], "'num'"),
    (["--parallel=-1"], "--parallel is -1"),
    (["--only=scd"], "--only=scd"),
  ],
)
def test_mistakes_end_in_one_line(sweep, flags, message):
  code, out, err, calls = sweep(*flags)
  assert (code, out, calls) == (2, "", [])
  assert message in err and err.count("\n") == 1


def test_a_config_without_a_sweep(sweep, config):
  config.write_text(config.read_text().partition("def sweep")[0])
  code, _, err, _ = sweep()
  assert code == 2 and f"{config} has no function sweep()" in err


def test_a_run_whose_last_checkpoint_is_damaged_is_not_scored(
  sweep, monkeypatch, tmp_path
):
  """Evaluations read the one before it then."""
  monkeypatch.setenv("DAMAGED", NAMES[1])
  code, _, err, _ = sweep()
  assert code == 1 and f"{NAMES[1]} was drawn at step 2" in err
  assert not (tmp_path / "sweep" / NAMES[1] / "scores.json").exists()
  assert (tmp_path / "sweep" / NAMES[2] / "scores.json").exists()


def test_runs_behind_the_others_are_not_averaged(sweep, tmp_path):
  """Their scores are of an earlier step; a failure of before counts no more."""
  assert sweep()[0] == 0
  folder = tmp_path / "sweep" / NAMES[1]
  (folder / "failed.json").write_text('{"line": "another training works"}')
  _, out, _, _ = sweep()
  assert "failed)" not in out and not (folder / "failed.json").exists()
  (folder / "checkpoints" / "3").rename(folder / "checkpoints" / "2")
  scores = json.loads((folder / "scores.json").read_text())
  for entry in scores:
    entry["step"] = 2
  (folder / "scores.json").write_text(json.dumps(scores))
  (folder / "failed.json").write_text('{"line": "no room"}')
  code, out, err, _ = sweep()
  assert code == 1 and "no room" in err
  point = NAMES[1].rpartition("_")[0]
  rows = [line for line in out.splitlines() if line.startswith(point)]
  assert rows and all(" 1 (1 failed) " in line for line in rows)


def write_config(folder, **fields):
  """Writes the config of a run, as its training would have."""
  from scm_jax import configuration
  from scm_jax.defaults import get_defaults

  config = get_defaults()
  config.total_steps, config.data.name = 3, "fake"
  config.update(fields)
  (folder / "config.json").write_text(configuration.to_json(config))


def test_a_finished_run_of_another_teacher_is_refused(sweep, tmp_path):
  assert sweep()[0] == 0
  student = tmp_path / "sweep" / NAMES[1]
  moved = "elsewhere/teacher_seed=0"  # the folder may have moved
  write_config(student, run="scd", teacher=moved)
  assert sweep()[0] == 0
  other = str(tmp_path / "sweep" / "teacher_seed=1")
  write_config(student, run="scd", teacher=other)
  code, _, err, calls = sweep()
  assert (code, calls) == (2, []) and "config.teacher=" in err


def test_runs_of_other_lengths_are_refused(sweep, tmp_path):
  """A run that is longer, and a student whose teacher was shorter."""
  assert sweep()[0] == 0
  teacher, student = (tmp_path / "sweep" / name for name in NAMES[:2])
  write_config(teacher)
  write_config(student, run="scd", teacher=str(teacher))
  record = student / "teacher.json"
  for step, expected in ((3, 0), (2, 2)):
    record.write_text(json.dumps({"step": step, "guide": {"step": 1}}))
    code, _, err, calls = sweep()
    assert (code, calls) == (expected, [])
  assert f"{student} is finished" in err and "until step 3" in err
  record.unlink()
  (teacher / "checkpoints" / "3").rename(teacher / "checkpoints" / "4")
  code, _, err, calls = sweep()
  assert (code, calls) == (2, []) and f"{teacher} is at step 4" in err


@pytest.mark.parametrize(
  "text",
  ["[{", "null", "[{}]", "[1]", '[{"flags": [], "step": 3, "records": [1]}]'],
)
def test_damaged_scores_are_made_again(sweep, tmp_path, text):
  assert sweep()[0] == 0
  file = tmp_path / "sweep" / NAMES[1] / "scores.json"
  whole = json.loads(file.read_text())
  file.write_text(text)
  code, _, _, calls = sweep()
  assert code == 0 and len(calls) == 2
  assert json.loads(file.read_text()) == whole
