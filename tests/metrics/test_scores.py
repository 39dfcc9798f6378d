"""Scores of images as a whole, and the reference's floor."""

import dataclasses
import pathlib
from statistics import stdev

import numpy as np
import pytest

from scm_jax import errors
from scm_jax.evaluation import scoring
from scm_jax.metrics import (
  extractors,
  frechet,
  registry,
  scores,
  streaming,
)
from scm_jax.metrics.accumulator import Accumulator, summarize_features
from scm_jax.metrics.array_file import PassCheckpoint
from scm_jax.metrics.classifier import classifier_extractor
from scm_jax.metrics.extractor import Extractor
from scm_jax.metrics.metric import (
  KEPT_FEATURES,
  Column,
  Metric,
  Options,
  Statistic,
)
from scm_jax.metrics.pixels import pixel_extractor

ROOT = pathlib.Path(__file__).parents[2]

_KEYS = [
  k for metric in registry.METRICS if metric.compares for k in metric.keys
]
_ALL = {*_KEYS, "warnings", "num_kept", "num", "num_reference"}


def _rows(params, images):
  """Features of another kind: the mean grey of each row of pixels."""
  return {"features": images.astype(np.float32).mean(axis=(2, 3)) / 255}


@pytest.fixture(scope="module")
def collect():
  """`collect(images)`: statistics of pixels and rows."""
  extractors = [pixel_extractor((8, 8, 1)), Extractor("rows", 8, (), _rows)]
  extraction = streaming.Extraction(extractors)
  return lambda images: streaming.collect_images(images, extraction, size=128)


def test_perfect_and_noisy_images(digits, collect):
  images = digits[0][:400]
  rng = np.random.default_rng(0)
  noisy = np.clip(images + rng.normal(0, 60, images.shape), 0, 255)
  real, worse = collect(images), collect(noisy.astype(np.uint8))
  same = scores.score(real, real, Options(subset_size=100))
  worse = scores.score(worse, real, Options(subset_size=100))
  assert set(same) == _ALL
  assert (same["num"], same["num_reference"]) == (400, 400)
  for name in ("pixels", "rows"):
    assert same["fd"][name] < 1e-6 < worse["fd"][name]
    assert same["kid"][name] < worse["kid"][name]
    assert (same["precision"][name], same["recall"][name]) == (1.0, 1.0)
    assert same["coverage"][name] == 1.0 and same["density"][name] > 0.99
  assert worse["precision"]["pixels"] < 0.9
  assert worse["density"]["pixels"] < 0.5


def test_scores_are_plain_numbers_of_the_parts(digits, collect, extract):
  images, reference = digits[0][:100], digits[0][100:250]
  found = scores.score(collect(images), collect(reference))
  pixels = pixel_extractor((8, 8, 1))
  assert found["fd"]["pixels"] == pytest.approx(
    frechet.frechet_distance(
      frechet.feature_stats(extract(pixels, images)),
      frechet.feature_stats(extract(pixels, reference)),
    ),
    rel=1e-9,
  )
  assert (found["num"], found["num_reference"]) == (100, 150)
  assert found["num_kept"] == [100, 150]
  for key in _KEYS:
    assert all(type(value) is float for value in found[key].values())


def test_moments_alone_give_a_frechet_distance_alone(digits, collect):
  mine, theirs = collect(digits[0][:400]), collect(digits[0][400:900])
  moments = {}
  for name, statistics in theirs.items():
    exact = statistics["moments"]
    given = frechet.Moments(None, exact.mean, exact.covariance)
    moments[name] = {"moments": given}
  found, whole = scores.score(mine, moments), scores.score(mine, theirs)
  assert found["fd"] == pytest.approx(whole["fd"], rel=1e-9)
  assert found["num_reference"] is None
  assert found["kid"] == found["precision"] == found["coverage"] == {}


@pytest.mark.slow
def test_floor_is_small_reproducible_and_says_its_sizes(digits, collect):
  images, labels = digits
  real = collect(images)
  floor = scores.reference_floor(real, repeats=2)
  assert floor == scores.reference_floor(real, repeats=2)
  assert (floor["num"], floor["num_reference"]) == (898, 898)
  assert (floor["repeats"], floor["seed"]) == (2, 0)
  assert set(floor) >= {*_KEYS, "fd_sd"}
  assert floor["precision"]["pixels"] > 0.8
  assert floor["fd_sd"]["pixels"] > 0
  # Half of the classes is no random half.
  biased = scores.score(
    collect(images[labels < 5]), collect(images[labels > 4])
  )
  assert biased["fd"]["pixels"] > 5 * floor["fd"]["pixels"]
  assert floor != scores.reference_floor(real, repeats=2, seed=1)


def test_halves_of_duplicates_may_have_no_nearest_ratio():
  for seed in range(20):  # in some of the halves most images are duplicates
    x = np.random.default_rng(seed).normal(size=(200, 8)).astype(np.float32)
    real = np.concatenate([x, x[:55], x[:55], x[:55]])
    images = {"pixels": summarize_features(real)}
    found = scores.reference_floor(images, seed=seed)
    ratio = found.get("nearest_ratio", {}).get("pixels")
    assert ratio is None or 0.1 < ratio < 10.0


def test_too_few_images_name_the_features(digits, collect):
  few, real = collect(digits[0][:16]), collect(digits[0])
  with pytest.raises(errors.UserError, match="'pixels': 16 samples .* 65"):
    scores.score(few, real)
  found = scores.score(few, real, Options(allow_few=True))
  assert found["fd"]["pixels"] > 0
  singular, noisy = found["warnings"]
  assert singular.startswith("pixels: 16 samples for 64 features, so the")
  assert "singular" in singular and "noisy" in noisy
  assert scores.score(real, real)["warnings"] == []


def test_images_of_another_shape_are_an_error(collect):
  with pytest.raises(errors.UserError, match="cannot be compared"):
    collect(np.zeros((99, 9, 8, 1), np.uint8))


def test_deviations_are_of_a_sample(digits, collect):
  """Over splits of the reference, and over seeds of a run: n - 1."""
  real, made = collect(digits[0][:400]), []
  compute = scores.score
  with pytest.MonkeyPatch.context() as patch:

    def record(*args):
      made.append(compute(*args))
      return made[-1]

    patch.setattr(scores, "score", record)
    floor = scores.reference_floor(real, repeats=3)
  summary = scoring.over_seeds([{"seed": i, **s} for i, s in enumerate(made)])
  for name in real:
    values = [found["fd"][name] for found in made]
    expected = pytest.approx(stdev(values), rel=1e-12)
    assert floor["fd_sd"][name] == expected == summary["fd_sd"][name]
    assert summary["fd_min"][name] == min(values)


# The largest logit of each class.
_LARGEST = Statistic(
  name="largest",
  output="logits",
  arrays=("largest",),
  summarize=lambda values, batch: values.max(axis=0),
  merge=lambda parts: np.max(parts, axis=0),
)


def test_a_new_metric_is_its_module_and_a_line(
  digits, hardly_trained, tmp_path, monkeypatch
):
  """With a statistic of its own, which is summed, saved and read again."""
  new = Metric(
    statistic=_LARGEST,
    compute=lambda generated, reference, options: (
      float(abs(generated - reference).max()),
    ),
    keys=("spread",),
    columns=(Column("spread", "spread"),),
  )
  monkeypatch.setattr(registry, "METRICS", (*registry.METRICS, new))
  classifier = classifier_extractor(hardly_trained)
  pixels = pixel_extractor((8, 8, 1))
  extraction = streaming.Extraction([classifier, pixels])
  images = digits[0][:300]
  generated, reference = (
    streaming.collect_images(x, extraction, size=64)
    for x in (images[:200], images[100:])
  )
  found = scores.score(generated, reference, Options(subsets=1))
  logits = [
    np.asarray(classifier.apply(classifier.params, x)["logits"]).max(axis=0)
    for x in (images[:200], images[100:])
  ]
  expected = abs(logits[0] - logits[1]).max()
  assert found["spread"] == {"classifier": pytest.approx(expected, abs=1e-4)}
  outputs = classifier.apply(classifier.params, images[:4])
  accumulator = Accumulator(4)
  accumulator.add({"classifier": outputs}, 4)
  again, saved = Accumulator(4), PassCheckpoint(tmp_path)
  saved.save(accumulator, {})
  assert saved.restore(again, None)
  results = [a.result()["classifier"] for a in (accumulator, again)]
  summaries = [result["largest"].tobytes() for result in results]
  assert summaries[0] == summaries[1]


def _metric(statistic=_LARGEST, scores=(1.0,), key="mine", column="mine"):
  compute = lambda generated, reference, options: scores
  return Metric(statistic, compute, (key,), (Column(column, "mine"),))


@pytest.mark.parametrize(
  ("metric", "said"),
  [
    (_metric(key="kid", column="kid"), "two metrics have the score 'kid'"),
    (_metric(column="mien"), "a column of 'mien', which is none of them"),
    (
      _metric(dataclasses.replace(_LARGEST, name="features")),
      "different statistics of the name 'features'",
    ),
    (_metric(KEPT_FEATURES, (1.0, 2.0)), "computes 2 scores, not 1"),
    (_metric(KEPT_FEATURES, (float("nan"),)), "mine .* not finite"),
  ],
)
def test_a_metric_that_cannot_work(collect, digits, monkeypatch, metric, said):
  """One of a name that exists would replace the other's scores."""
  monkeypatch.setattr(registry, "METRICS", (*registry.METRICS, metric))
  with pytest.raises(errors.UserError, match=said):
    images = collect(digits[0][:100])
    scores.score(images, images, Options(allow_few=True))


@pytest.mark.parametrize(
  "change",
  [
    lambda rows: {"features": rows[:, :5]},
    lambda rows: {"features": rows[:3]},
    lambda rows: {"features": rows[..., None]},
    lambda rows: {"features": rows, "logits": rows},
    lambda rows: rows,
  ],
)
def test_outputs_that_are_not_as_stated(digits, change):
  apply = lambda params, images: change(_rows(params, images)["features"])
  extraction = streaming.Extraction([Extractor("mine", 8, (), apply)])
  with pytest.raises(errors.ConfigError, match="the extractor 'mine'"):
    streaming.collect_images(digits[0][:16], extraction)


def test_metrics_and_extractors_are_documented():
  text = (ROOT / "docs" / "evaluation.md").read_text()
  for name in (*registry.columns(), *extractors.EXTRACTORS):
    assert f"`{name}`" in text
