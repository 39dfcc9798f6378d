"""Scores while training, and the best average so far."""

import json

import numpy as np
import pytest

from scm_jax.evaluation import labels
from scm_jax.evaluation.reference import Reference
from scm_jax.metrics import frechet
from scm_jax.training import workdir
from scm_jax.training.checkpoints import checksum


def scores_of(path, name):
  """A score in training by its steps."""
  lines = (path / "metrics.jsonl").read_text().splitlines()
  name = f"in_training/{name}"
  return {
    line["step"]: line[name] for line in map(json.loads, lines) if name in line
  }


@pytest.mark.slow
def test_scores_in_training_and_the_best_kept(printed, flags, runs, tmp_path):
  path = tmp_path / "run"
  argv = ["train", f"--workdir={path}", *flags("teacher")]
  argv += ["--config.evaluate_every=3", "--config.evaluate.num=40"]
  printed(*argv, "--config.sample.solver_steps=2")
  scores = scores_of(path, "kid_pixels")
  total = workdir.load_config(path).total_steps
  assert list(scores) == list(range(3, total + 1, 3))
  assert np.isfinite(list(scores.values())).all()
  distances = scores_of(path, "fd_pixels")
  assert distances.keys() == scores.keys() and min(distances.values()) > 0

  record = json.loads((path / "best" / "score.json").read_text())
  best = min(scores, key=scores.__getitem__)
  assert record["by"] == "in_training/kid_pixels"
  assert (record["step"], record["score"]) == (best, scores[best])
  model, about = workdir.load(path / "best")
  assert about["step"] == best
  # Looking at a run does not change it.
  plain, _ = workdir.load(runs / "teacher")
  last, _ = workdir.load(path)
  assert checksum.of(last.params) == checksum.of(plain.params)
  assert checksum.of(model.params) != checksum.of({}) and about["ema"]


@pytest.mark.slow
def test_scores_in_training_are_against_the_reference(
  printed, flags, tmp_path, caplog
):
  """Here a set of images that no dataset has."""
  path, file = tmp_path / "run", tmp_path / "reference.npy"
  black = np.zeros((80, 8, 8, 1), np.uint8)
  black[::2, 0, 0] = 9
  np.save(file, black)
  argv = ["train", f"--workdir={path}", *flags("teacher")]
  argv += ["--config.evaluate_every=8", "--config.evaluate.num=80"]
  more = "--config.sample.solver_steps=2", "--config.sample.guidance=1.3"
  printed(*argv, *more, f"--config.evaluate.reference={file}")
  [[step, found]] = scores_of(path, "fd_pixels").items()
  model, about = workdir.load(path / "best")
  assert about["step"] == step
  label = labels.draw("random", Reference({}, {}), 80, 10, seed=0)
  drawn = model.sample(label)  # by the config's two steps and its guidance
  features = lambda images: images.reshape(80, -1) / 127.5
  expected = frechet.frechet_distance(
    *(frechet.feature_stats(features(x)) for x in (drawn, black)),
    allow_few=True,
  )
  assert found == pytest.approx(expected, rel=1e-3)
  assert "decoded" not in caplog.text  # these are pixels


def test_features_in_training_are_looked_at_first(refused, flags, tmp_path):
  argv = ["train", f"--workdir={tmp_path / 'run'}", *flags("teacher")]
  more = ["--config.evaluate_every=3", "--config.evaluate.features=('pixel',)"]
  assert "did you mean 'pixels'?" in refused(2, *argv, *more)
  assert not (tmp_path / "run").exists()
