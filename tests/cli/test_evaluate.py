"""The command `evaluate`: the report, and that it is made once."""

import json
import logging
import math
import shutil

import numpy as np
import pytest
from PIL import Image

from scm_jax.metrics import classifier
from scm_jax.sampler import Sampler

NUM = 200  # images a run; as many as the reference would take longer


@pytest.fixture(scope="module", autouse=True)
def quick_classifier():
  """The same classifier after a part of its training."""
  few, load_or_train = classifier.Settings(steps=300), classifier.load_or_train
  train = lambda images, labels, cache, _: load_or_train(
    images, labels, cache, few
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(classifier, "load_or_train", train)
    yield


@pytest.fixture(scope="module")
def argv(runs, score_cache):
  names = ",".join(f"{runs}/{run}" for run in ("teacher", "scd"))
  cache = f"--cache={score_cache}"
  return ["evaluate", f"--workdir={names}", f"--num={NUM}", cache]


@pytest.fixture(scope="module")
def report(runs, argv, tmp_path_factory):
  """The folder of the report on both runs, made by the command."""
  from scm_jax.cli import main

  out = tmp_path_factory.mktemp("report")
  assert main.main([*argv, f"--out={out}"]) == 0
  return out


def test_report(report, runs):
  content = json.loads((report / "report.json").read_text())
  assert {"runs", "reference"} <= content.keys()
  assert [
    (run["name"], run["objective"], run["steps"], run["nfe"])
    for run in content["runs"]
  ] == [
    ("teacher, 7 NFE", "teacher", 4, 7),  # the config's steps
    ("teacher, 1 step", "teacher", 1, 1),
    ("sCD, 1 step", "scd", 1, 1),
    ("sCD, 2 steps", "scd", 2, 2),
  ]
  params = {run["params"] for run in content["runs"]}
  assert len(params) == 1 and params.pop() > 1000
  for run in content["runs"]:
    assert run["effective_compute"] == pytest.approx(
      run["params"] / 1e9 * run["nfe"]
    )
    lines = (runs / run["objective"] / "metrics.jsonl").read_text().splitlines()
    trained = json.loads(lines[-1])
    assert run["training_evaluations"] == trained["evaluations"]
    assert trained["evaluations"] % run["evaluations_per_sample"] == 0
    assert run["fd"].keys() == {"classifier", "pixels"}
    assert all(math.isfinite(x) and x > 0 for x in run["fd"].values())
    assert (run["num"], run["seed"]) == (NUM, 0)
    assert run["workdir"] == str(runs / run["objective"])
    # Of the few samples' distance their number explains a part.
    for name, distance in run["fd_infinity"].items():
      assert distance < run["fd"][name] and run["fd_infinity_se"][name] > 0
  reference = content["reference"]
  floor = reference["fd_floor"]
  assert abs(floor["classifier"]) < reference["fd"]["classifier"]
  assert reference["dataset"] == "scm_digits" and reference["images"] == 1797
  assert reference["fd"].keys() == {"classifier", "pixels"}
  # The floor is far below networks of eight steps.
  for name, floor in reference["fd"].items():
    assert 0 <= floor < min(run["fd"][name] for run in content["runs"])
  assert reference["classifier_accuracy"] > 0.9
  # The classifier knows real images, and hardly these networks' samples.
  wrong = [run["label_error"]["classifier"] for run in content["runs"]]
  assert reference["label_error"]["classifier"] < 0.1 < min(wrong)
  for run in content["runs"]:
    assert run["least_class"]["classifier"] < 1
    assert run["nearest_ratio"].keys() == {"classifier", "pixels"}

  picture = np.asarray(Image.open(report / "report.png").convert("L"))
  assert min(picture.shape) > 300 and picture.std() > 10


def test_made_once(report, argv, command, monkeypatch, caplog):
  """The same question again draws nothing; another one does."""

  class Drawn(Exception):
    pass

  def draw(*args, **kwargs):
    raise Drawn

  monkeypatch.setattr(Sampler, "draw", draw)
  caplog.set_level(logging.INFO)
  before = (report / "report.json").read_bytes()
  code, out, err = command(*argv, f"--out={report}")
  assert (code, err) == (0, "")
  assert f"{report}/report.json is up to date" in caplog.text
  assert f"report: {report}/report.json and {report}/report.png" in out
  table = out.splitlines()
  for name in ("teacher, 7 NFE", "sCD, 2 steps"):
    assert any(line.startswith(name) for line in table)
  for change in ("--seeds=1", "--num=201", "--steps=1"):
    with pytest.raises(Drawn):
      command(*argv, f"--out={report}", change)
  assert (report / "report.json").read_bytes() == before


def test_reports_of_the_same_question_are_equal(
  report, argv, command, tmp_path, monkeypatch
):
  """Made anew in another folder, for a part of the runs."""
  monkeypatch.chdir(tmp_path)
  code, *_ = command(
    "evaluate",
    argv[1].split(",")[0].replace("teacher", "scd"),
    *argv[2:],
    "--steps=2",
    "--features=pixels",
    f"--out={tmp_path}",
  )
  assert code == 0
  [run] = json.loads((tmp_path / "report.json").read_text())["runs"]
  whole = json.loads((report / "report.json").read_text())["runs"]
  [same] = [x for x in whole if x["name"] == run["name"]]
  assert run["fd"] == {"pixels": same["fd"]["pixels"]}


@pytest.mark.slow
def test_other_weights_at_the_same_step_are_another_question(
  runs, command, score_cache, tmp_path
):
  """A run done anew in the same folder, say."""
  folder = tmp_path / "run"
  shutil.copytree(runs / "scd", folder)
  argv = ["evaluate", f"--workdir={folder}", "--steps=1"]
  argv += ["--features=pixels", f"--num={NUM}", f"--cache={score_cache}"]
  assert command(*argv)[0] == 0
  before = (folder / "report.json").read_text()
  shutil.rmtree(folder / "checkpoints")
  shutil.copytree(runs / "teacher" / "checkpoints", folder / "checkpoints")
  assert command(*argv)[0] == 0
  assert (folder / "report.json").read_text() != before


@pytest.mark.parametrize(
  "more, code, said",
  [
    (["--steps=0"], 2, "--steps is 0; it must be positive"),
    (["--steps=two"], 2, "--steps: 'two': give whole numbers"),
    (["--teacher-steps=0"], 2, "--teacher-steps is 0; it must be positive"),
    (["--sigma-max=0"], 2, "--sigma-max is 0; it must be positive"),
    (["--num=-1"], 2, "--num is -1; it must be at least 0"),
    (["--features=inception"], 2, "inception"),
    (["--reference=scm_digit"], 1, "dataset 'scm_digit'"),
    (["--reference=scm_digits:tset"], 2, "'tset'"),
    (["--ema=0.77"], 1, "keeps no EMA of 0.77"),
  ],
)
def test_mistakes(more, code, said, refused, runs, tmp_path):
  err = refused(
    code, "evaluate", f"--workdir={runs}/scd", f"--out={tmp_path}", *more
  )
  assert said in err
  assert not (tmp_path / "report.json").exists()


def test_no_workdir(refused, tmp_path, runs):
  both = f"{runs}/scd,{tmp_path}/nowhere"
  said = refused(1, "evaluate", f"--workdir={both}", f"--out={tmp_path}")
  assert f"{tmp_path}/nowhere is not a workdir" in said
  assert "--workdir: ','" in refused(2, "evaluate", "--workdir=,")
