"""Averages of any width: `reconstruct`, and `--ema` of the other commands."""

import json
import logging

import numpy as np
import pytest

from scm_jax.cli import main


@pytest.fixture(scope="session")
def teacher(shared_steps, data_dir, flags, tmp_path_factory):
  """A teacher's workdir with snapshots of steps 2, 4, 6 and 8."""
  folder = tmp_path_factory.mktemp("snapshots") / "teacher"
  snapshots = "--config.snapshot_every=2"
  argv = ["train", f"--workdir={folder}", *flags("teacher", snapshots)]
  with shared_steps():
    assert main.main(argv) == 0
  return folder


@pytest.fixture(scope="session")
def made(teacher):
  """The workdir of two averages that were made from them."""
  out = teacher.parent / "made"
  argv = [f"--workdir={teacher}", "--ema=0.075,0.15", f"--out={out}"]
  assert main.main(["reconstruct", *argv]) == 0
  return out


def drawn(printed, workdir, out, *argv):
  printed("sample", f"--workdir={workdir}", f"--out={out}", "--num=10", *argv)
  return np.load(out / "samples.npz")["samples"]


def said_of_fits(caplog):
  return [line for line in caplog.messages if "reconstructing" in line]


def test_what_it_writes(made, teacher, command, tmp_path, caplog):
  assert {p.name for p in made.iterdir()} == {
    *("config.json", "origin.json", "checkpoints")
  }
  assert json.loads((made / "config.json").read_text())["ema"] == [0.075, 0.15]
  origin = json.loads((made / "origin.json").read_text())
  assert origin["workdir"] == str(teacher) and origin["step"] == 8
  assert set(origin["fit_error"]) == {"0.075", "0.150"}
  assert all(0 < error < 0.1 for error in origin["fit_error"].values())
  out = tmp_path / "at_6"
  caplog.set_level(logging.INFO)
  argv = [f"--workdir={teacher}", f"--out={out}", "--ema=0.1", "--step=6"]
  code, said, err = command("reconstruct", *argv)
  assert (code, said) == (0, f"EMA weights of width 0.1 at step 6: {out}\n"), (
    err
  )
  [line] = said_of_fits(caplog)
  assert "width 0.100 at step 6 from 9 stored" in line and " 0 % of" in line


def test_sample_makes_the_same_by_itself(
  made, teacher, printed, tmp_path, caplog
):
  """Without leaving anything behind; and says so in one line."""
  caplog.set_level(logging.INFO)
  before = sorted(teacher.rglob("*"))
  direct = drawn(printed, teacher, tmp_path / "a", "--ema=0.075")
  [line] = said_of_fits(caplog)
  assert "EMA of width 0.075 at step 8 from 12 stored ones" in line
  assert sorted(teacher.rglob("*")) == before
  written = drawn(printed, made, tmp_path / "b")
  assert len(said_of_fits(caplog)) == 1
  np.testing.assert_array_equal(written, direct)


@pytest.mark.slow
def test_evaluate_takes_both(made, teacher, printed, score_cache, tmp_path):
  printed(
    *("evaluate", f"--workdir={made},{teacher}", "--ema=0.15"),
    f"--cache={score_cache}",
    *("--features=pixels", "--num=70", "--teacher-steps=1"),
    f"--out={tmp_path}",
  )
  runs = json.loads((tmp_path / "report.json").read_text())["runs"]
  assert [run["ema"] for run in runs] == ["0.150", "0.150"]
  assert runs[0]["fd"] == runs[1]["fd"]


@pytest.mark.parametrize(
  "argv, code, said",
  [
    (["--ema=wide"], 2, "--ema: 'wide': give numbers"),
    (["--ema=0.03,0.5"], 2, "0.5 names no EMA: a relative width lies"),
    (["--ema=0.05", "--step=0"], 2, "--step is 0; it must be positive"),
    (["--ema=0.05", "--step=9"], 1, "has no EMAs of step 9: its snapshots"),
    (["--ema=0.05", "--step=7"], 1, "step that it keeps EMAs of is 6"),
    ([], 2, "required: --ema"),
  ],
)
def test_mistakes(argv, code, said, refused, teacher, tmp_path):
  out = tmp_path / "out"
  err = refused(
    code, "reconstruct", f"--workdir={teacher}", f"--out={out}", *argv
  )
  assert said in err
  assert not list(tmp_path.iterdir())


def test_half_lives_are_not_widths(refused, teacher, tmp_path):
  argv = [f"--workdir={teacher}", f"--out={tmp_path}/out", "--ema=500"]
  assert "500" in refused(2, "reconstruct", *argv)
  assert "keeps no EMA of 500; it has 0.1" in refused(
    1, "sample", f"--workdir={teacher}", "--ema=500", f"--out={tmp_path}/out"
  )


def test_neither_snapshots_nor_room(refused, made, teacher, tmp_path):
  argv = [f"--workdir={made}", f"--out={tmp_path}/out", "--ema=0.07"]
  said = refused(1, "reconstruct", *argv)
  assert "has no snapshots; train with config.snapshot_every" in said
  argv = [f"--workdir={teacher}", f"--out={made}", "--ema=0.07"]
  assert f"{made} is not empty; choose another" in refused(
    1, "reconstruct", *argv
  )
