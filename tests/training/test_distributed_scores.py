"""Two real processes that score together, in training and after it."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

PATIENCE = 900  # seconds to wait for a process before a test fails
SCORES = ("fd", "kid", "precision", "recall", "density", "coverage")


def _ended(processes):
  codes = [process.wait(PATIENCE) for process in processes]
  assert codes == [0, 0], [p.log.read_text()[-2000:] for p in processes]


def _scores(folder, read_metrics):
  """Scores in training by step."""
  names = "in_training/fd_pixels", "in_training/kid_pixels"
  return {
    line["step"]: [line[name] for name in names]
    for line in read_metrics(folder)
    if names[0] in line
  }


@pytest.mark.slow
def test_scores_in_training_are_those_of_one_process(
  pair, printed, copy_at, flags, read_metrics, tmp_path
):
  """A process's batches are as large in both, for the same rounding."""
  argv = [
    *flags("teacher", "--config.total_steps=8"),
    "--config.evaluate_every=1",
    "--config.evaluate.num=75",
    "--config.sample.solver_steps=2",
  ]
  two, one = copy_at(6, tmp_path / "two"), copy_at(6, tmp_path / "one")
  processes = pair("train", f"--workdir={two}", *argv)
  _ended(processes)
  printed("train", f"--workdir={one}", *argv, "--config.sample.batch_size=38")
  mine, theirs = (_scores(folder, read_metrics) for folder in (two, one))
  assert list(mine) == list(theirs) == [7, 8]
  for step in mine:
    assert mine[step] == pytest.approx(theirs[step], rel=1e-5)
  kept = [
    json.loads((folder / "best" / "score.json").read_text())
    for folder in (two, one)
  ]
  assert kept[0]["step"] == kept[1]["step"]
  assert kept[0]["score"] == pytest.approx(kept[1]["score"], rel=1e-5)
  assert not list(two.glob("best.*"))
  # One cache, the same as that of one process, and no sums left over.
  caches = [os.listdir(folder / "features") for folder in (two, one)]
  assert len(caches[0]) == 2 and sorted(caches[0]) == sorted(caches[1])
  logs = [process.log.read_text() for process in processes]
  assert "1797 images" in logs[0] and "images" not in logs[1]


@pytest.mark.slow
def test_a_report_by_two_processes_one_of_which_was_killed(
  pair, wait_until, printed, copy_at, tmp_path
):
  trained = copy_at(6, tmp_path / "trained")
  argv = [
    *("evaluate", f"--workdir={trained}", "--teacher-steps=2", "--num=99"),
    *("--features=classifier,pixels", "--keep=40", "--save-every=1"),
  ]
  two, one = tmp_path / "two", tmp_path / "one"
  printed(*argv, f"--out={one}", "--batch-size=4")
  [classifier] = (one / "features").glob("classifier_*")
  (two / "features").mkdir(parents=True)
  shutil.copy(classifier, two / "features")

  partial = two / "evaluation_partial"
  processes = pair(*argv, f"--out={two}", "--batch-size=8")
  names = [f"*_{index}_of_2/sums.npz" for index in range(2)]
  wait_until(lambda: all(list(partial.glob(n)) for n in names), processes)
  processes[1].send_signal(signal.SIGKILL)
  assert processes[0].wait(PATIENCE) == 1
  log = processes[0].log.read_text()
  assert "scm-jax evaluate: process 0 of 2: lost process 1" in log
  assert "Traceback" not in log and "Fatal" not in log
  assert not (two / "report.json").exists()

  processes = pair(*argv, f"--out={two}", "--batch-size=8")
  _ended(processes)
  log = processes[0].log.read_text()
  assert "resuming after" in log and "are cached" in log
  reports = [json.loads((f / "report.json").read_text()) for f in (two, one)]
  [mine], [theirs] = (report["runs"] for report in reports)
  for metric in (*SCORES, "inception_score"):
    assert mine[metric] == pytest.approx(theirs[metric], rel=1e-6), metric
  real = [report["reference"] for report in reports]
  found, expected = (about.pop("inception_score") for about in real)
  assert found == pytest.approx(expected, rel=1e-6) and real[0] == real[1]
  # The edges of bars may differ by rounding; one pixel of a sample is many.
  picture, other = (
    np.asarray(Image.open(folder / "report.png")) for folder in (two, one)
  )
  assert (picture != other).any(axis=-1).sum() < 40
  for folder in (".", "features"):
    assert sorted(os.listdir(two / folder)) == sorted(os.listdir(one / folder))
