"""Scores while training, and the best average so far."""

import json

import numpy as np

from scm_jax.training import checksum, workdir


def test_scores_in_training_and_the_best_kept(command, flags, runs, tmp_path):
  path = tmp_path / "run"
  argv = ["train", f"--workdir={path}", *flags("teacher")]
  argv += ["--config.evaluate_every=3", "--config.evaluate.num=40"]
  code, _, err = command(*argv, "--config.sample.solver_steps=2")
  assert code == 0, err
  lines = (path / "metrics.jsonl").read_text().splitlines()
  scores = {
    line["step"]: line["in_training/fd_pixels"]
    for line in map(json.loads, lines)
    if "in_training/fd_pixels" in line
  }
  total = workdir.load_config(path).total_steps
  assert list(scores) == list(range(3, total + 1, 3))
  assert all(np.isfinite(value) and value > 0 for value in scores.values())

  record = json.loads((path / "best" / "score.json").read_text())
  best = min(scores, key=scores.__getitem__)
  assert record["by"] == "in_training/fd_pixels"
  assert (record["step"], record["score"]) == (best, scores[best])
  model, about = workdir.load(path / "best")
  assert about["step"] == best
  # Looking at a run does not change it.
  plain, _ = workdir.load(runs / "teacher")
  last, _ = workdir.load(path)
  assert checksum.of(last.params) == checksum.of(plain.params)
  assert checksum.of(model.params) != checksum.of({}) and about["ema"]


def test_features_in_training_are_looked_at_first(refused, flags, tmp_path):
  argv = ["train", f"--workdir={tmp_path / 'run'}", *flags("teacher")]
  more = ["--config.evaluate_every=3", "--config.evaluate.features=('pixel',)"]
  assert "did you mean 'pixels'?" in refused(2, *argv, *more)
  assert not (tmp_path / "run").exists()
