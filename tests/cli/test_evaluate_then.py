"""The command `evaluate --then`: which part of sampling is to be mended."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow

NUM = 150
PLAIN = ("--features=pixels", f"--num={NUM}", "--save-samples")


@pytest.fixture(scope="module")
def composed(runs, score_cache, tmp_path_factory):
  """The folder of a report on a student and its teacher."""
  from scm_jax.cli import main

  out = tmp_path_factory.mktemp("composed")
  argv = [f"--workdir={runs}/scd", f"--then={runs}/teacher", f"--out={out}"]
  argv += [*PLAIN, f"--cache={score_cache}"]
  assert main.main(["evaluate", *argv]) == 0
  return out


def test_every_way_to_begin_and_to_finish(composed, runs):
  report = json.loads((composed / "report.json").read_text())
  student, teacher = f"{runs}/scd", f"{runs}/teacher"
  found = [(run["first"], run["then"], run["nfe"]) for run in report["runs"]]
  assert found == [
    (student, student, 2),
    (student, teacher, 1 + 7),
    (teacher, student, 7 + 1),
    (teacher, teacher, 14),
    ("data", student, 1),
    ("data", teacher, 7),
  ]
  assert [run["name"] for run in report["runs"]][1:5] == [
    "sCD, then teacher",
    "teacher, then sCD",
    "teacher, then teacher",
    "data, then sCD",
  ]
  assert {run["t_mid"] for run in report["runs"]} == {1.1}
  # Data are finished with their own classes.
  labels = [run["labels"] for run in report["runs"]]
  assert labels == [*["random"] * 4, *["data"] * 2]
  # Networks of eight steps lose what real images still had.
  scores = {run["name"]: run["fd"]["pixels"] for run in report["runs"]}
  assert scores["data, then sCD"] < scores["sCD, then sCD"]


def test_a_student_that_finishes_its_own_draws_two_steps(
  composed, runs, printed, score_cache, tmp_path
):
  argv = [f"--workdir={runs}/scd", "--steps=2", f"--out={tmp_path}", *PLAIN]
  printed("evaluate", *argv, f"--cache={score_cache}")
  whole = np.load(tmp_path / "samples" / "scd_2_steps_seed_0.npy")
  parts = np.load(composed / "samples" / "scd_then_scd_seed_0.npy")
  np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("given, t_mid", [(0.5, 0.5), (0, np.pi / 4)])
def test_the_time_between_the_parts(
  given, t_mid, runs, printed, score_cache, tmp_path
):
  """The networks' own second times do not matter, nor where they begin."""
  argv = [f"--workdir={runs}/scd", f"--then={runs}/teacher", f"--t-mid={given}"]
  argv += ["--features=pixels", f"--num={NUM}", "--sigma-max=0.9"]
  more = f"--cache={score_cache}", f"--out={tmp_path}"
  printed("evaluate", *argv, *more)
  report = json.loads((tmp_path / "report.json").read_text())
  assert {run["t_mid"] for run in report["runs"]} == {t_mid}


@pytest.mark.parametrize(
  "more, said",
  [
    (["--out="], "--then needs --out"),
    (["--steps=2"], "--steps has no use with --then"),
    (["--t-mid=1,1.2"], "--t-mid has several values"),
    (["--workdir={runs}/scd,{runs}/teacher"], "--then goes with one --workdir"),
    (["--then={runs}/scd"], "is the network of --workdir"),
  ],
)
def test_mistakes(more, said, refused, runs, tmp_path):
  argv = [
    f"--workdir={runs}/scd",
    f"--then={runs}/teacher",
    f"--out={tmp_path}",
  ]
  more = [flag.format(runs=runs) for flag in more]
  assert said in refused(2, "evaluate", *argv, *more)


def test_networks_of_other_data(refused, runs, configured, tmp_path):
  other = configured("scd", section="data", mean=0.3)
  argv = [f"--workdir={runs}/scd", f"--then={other}", f"--out={tmp_path}"]
  assert "draws other data than" in refused(2, "evaluate", *argv)
