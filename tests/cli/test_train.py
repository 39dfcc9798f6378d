"""The command `train`: what it leaves, and how mistakes end."""

import json
import logging
import shutil

import pytest


def test_a_workdir_holds_the_run(runs):
  for run in ("teacher", "scd"):
    folder = runs / run
    config = json.loads((folder / "config.json").read_text())
    assert config["run"] == run and config["total_steps"] == 8
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8]
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"4", "8"}
    assert (folder / "samples/step_00000008.png").exists()
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert (folder / "teacher.json").exists() == (run != "teacher")
    # Nothing else is left there, such as half-written files.
    known = {"config.json", "metrics.jsonl", "teacher.json", "checkpoints"}
    known |= {"classes.json"}
    known |= {"samples", ".lock"} | {p.name for p in folder.glob("events.*")}
    known |= {"snapshots"} if run == "teacher" else set()
    assert {p.name for p in folder.iterdir()} <= known


def test_tangents_of_students_are_in_the_metrics(runs):
  """Binned by time: spikes that an average would hide."""
  lines = (runs / "scd" / "metrics.jsonl").read_text().splitlines()
  names = set().union(*map(json.loads, lines))
  assert {"tangent_norm", "nonfinite_samples", "gradient_norm"} <= names
  for name in ("loss", "tangent_norm", "dF_dt"):
    assert any(key.startswith(f"{name}/t=") for key in names)


def test_the_same_command_again_is_done(runs, command, flags, caplog):
  caplog.set_level(logging.INFO)
  before = (runs / "teacher/metrics.jsonl").read_bytes()
  code, out, err = command("train", f"--workdir={runs}/teacher", *flags())
  assert (code, out, err) == (0, "", "")
  assert f"{runs}/teacher is complete, at step 8" in caplog.text
  assert (runs / "teacher/metrics.jsonl").read_bytes() == before


def test_other_classes_are_not_gone_on_with(
  runs, refused, command, flags, caplog, tmp_path
):
  """Labels are numbers: renamed folders of images may give them a new sense."""
  folder = shutil.copytree(runs / "teacher", tmp_path / "teacher")
  names = json.loads((folder / "classes.json").read_text())
  assert names == [str(digit) for digit in range(10)]
  (folder / "classes.json").write_text(json.dumps([*"1023456789"]))
  more = flags("teacher", "--config.total_steps=9")
  said = refused(2, "train", f"--workdir={folder}", *more)
  assert "label 0 was '1' and is '0'" in said and "classes.json" in said
  assert {p.name for p in (folder / "checkpoints").iterdir()} == {"4", "8"}
  assert json.loads((folder / "config.json").read_text())["total_steps"] == 8
  own = flags("scd", "--config.total_steps=1", f"--config.teacher={folder}")
  assert command("train", f"--workdir={tmp_path}/scd", *own)[0] == 0
  assert f"mean other classes to the network of {folder}" in caplog.text
  (folder / "classes.json").unlink()
  assert command("train", f"--workdir={folder}", *more)[0] == 0


def test_misspelt_key_names_the_nearest(refused, flags, tmp_path):
  folder = tmp_path / "run"
  said = refused(
    2, "train", f"--workdir={folder}", *flags("sct", "--config.bacth_size=4")
  )
  assert "bacth_size" in said and "batch_size" in said
  assert not folder.exists()


def test_config_file_that_raises_names_the_line(refused, tmp_path):
  file = tmp_path / "broken.py"
  file.write_text("def get_config(arg=''):\n  return 1 / 0\n")
  folder = tmp_path / "run"
  said = refused(2, "train", f"--workdir={folder}", f"--config={file}")
  assert f"{file}, line 2: ZeroDivisionError: division by zero" in said
  assert not folder.exists()


@pytest.mark.parametrize(
  "change, said",
  [
    ("--config.run=sct", "--config=FILE:run=NAME"),
    ("--config.network.family=ddpmpp", "get_defaults(run, FAMILY)"),
    ("--config.network.form=edm3", "config.network.form is 'edm3'"),
    ("--config.total_steps=0", "config.total_steps is 0"),
    ("--config.optimizer.name=sgd", "is 'sgd'; choose one of adam, radam"),
    ("--config.data.split=tset", "config.data.split='tset'"),
    ("--config.data.size=4", "larger than config.data.size=4"),
    ("--config.data.channels=3", "not config.data.channels=3"),
    ("--config.ema=()", "config.ema is empty"),
  ],
)
def test_values_that_make_no_run(change, said, refused, flags, tmp_path):
  """And the workdir is free for the command once it is right."""
  folder = tmp_path / "run"
  argv = [f"--workdir={folder}", *flags("teacher", change)]
  assert said in refused(2, "train", *argv)
  assert not (folder / "config.json").exists()


def test_a_workdir_of_another_config_is_left_alone(runs, refused, flags):
  before = (runs / "teacher/config.json").read_bytes()
  said = refused(
    2,
    "train",
    f"--workdir={runs}/teacher",
    *flags("teacher", "--config.optimizer.b2=0.5"),
  )
  assert "optimizer.b2: 0.99 -> 0.5" in said and str(runs / "teacher") in said
  assert (runs / "teacher/config.json").read_bytes() == before
  said = refused(
    2,
    "train",
    f"--workdir={runs}/teacher",
    *flags("scd", f"--config.teacher={runs}/teacher"),
  )
  assert "run: 'teacher' -> 'scd'" in said
  assert f"add --config.start={runs}/teacher to begin" in said


def test_a_workdir_that_cannot_be_written(refused, flags, tmp_path):
  """Under a file, since tests may run as root, who may write anywhere else."""
  (tmp_path / "file").write_text("mine")
  folder = tmp_path / "file" / "run"
  said = refused(1, "train", f"--workdir={folder}", *flags())
  assert f"cannot write {folder}" in said
  assert (tmp_path / "file").read_text() == "mine"


def bad_teacher(kind, runs, tmp_path):
  """Returns a folder that is no teacher, the exit code and the message."""
  folder = tmp_path / "teacher"
  if kind == "missing":
    return folder, 1, f"{folder} is not a workdir"
  if kind == "a file":
    folder.write_text("mine")
    return folder, 1, f"{folder} is not a workdir"
  if kind == "a student":
    return runs / "scd", 2, f"{runs}/scd is not a diffusion teacher's workdir"
  shutil.copytree(runs / "teacher", folder)
  if kind == "no checkpoint":
    shutil.rmtree(folder / "checkpoints")
    return folder, 1, f"{folder} has no checkpoint yet"
  if kind == "empty checkpoints":
    for path in (folder / "checkpoints").iterdir():
      shutil.rmtree(path)
    return folder, 1, "has no checkpoint yet"
  if kind == "unreadable":
    for path in folder.rglob("manifest.ocdbt"):
      path.write_bytes(b"x")
    return folder, 1, f"none of the checkpoints in {folder}/checkpoints can"
  assert kind == "no such average"
  shutil.rmtree(folder / "snapshots")
  return folder, 1, "keeps no EMA of 0.77; it has "


@pytest.mark.parametrize(
  "kind",
  [
    "missing",
    "a file",
    "a student",
    "no checkpoint",
    "empty checkpoints",
    "unreadable",
    "no such average",
  ],
)
def test_teachers_that_are_none(kind, runs, refused, flags, tmp_path):
  teacher, code, expected = bad_teacher(kind, runs, tmp_path)
  folder = tmp_path / "student"
  more = ["--config.teacher_ema=0.77"] if kind == "no such average" else []
  said = refused(
    code,
    "train",
    f"--workdir={folder}",
    *flags("scd", f"--config.teacher={teacher}", *more),
  )
  assert expected in said
  assert not (folder / "config.json").exists()


def test_a_student_needs_a_teacher(refused, flags, tmp_path):
  said = refused(2, "train", f"--workdir={tmp_path}", *flags("scd"))
  assert "config.teacher is empty" in said and "--config.teacher=DIR" in said


@pytest.mark.parametrize(
  ("run", "field"), [("scd", "teacher"), ("teacher", "start")]
)
def test_weights_of_another_shape_name_the_parameter(
  run, field, runs, refused, flags, tmp_path
):
  """Then the command is put right, and the workdir takes it."""
  said = refused(
    2,
    "train",
    f"--workdir={tmp_path}",
    *flags(
      run,
      f"--config.{field}={runs}/teacher",
      "--config.network.channels=16",
    ),
  )
  assert "conv_in/weight is (3, 3, 2, 8) there and (3, 3, 2, 16) here" in said
  assert not (tmp_path / "config.json").exists()


def test_a_teacher_that_has_changed_since(
  runs, refused, command, flags, tmp_path
):
  """Trained on, say; the student would silently become another."""
  teacher, folder = tmp_path / "teacher", tmp_path / "student"
  shutil.copytree(runs / "teacher", teacher)
  shutil.copytree(runs / "scd", folder)
  shutil.rmtree(folder / "checkpoints/8")
  shutil.rmtree(teacher / "checkpoints/8")  # so that its newest is step 4
  argv = [f"--workdir={folder}", *flags("scd", f"--config.teacher={teacher}")]
  said = refused(2, "train", *argv)
  assert f"the teacher {teacher} has changed since this run began" in said
  assert "its step was 8" in said and "now 4" in said
  # With the weights it began with, wherever they are, it goes on.
  argv[-1] = f"--config.teacher={runs}/teacher"
  assert command("train", *argv)[0] == 0
  assert (folder / "checkpoints/8").exists()
