"""One pass over images: any batches, any devices, killed or not."""

import json
import pathlib

import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import accumulator, frechet, scores, streaming
from scm_jax.metrics.array_file import PassCheckpoint
from scm_jax.metrics.classifier import classifier_extractor
from scm_jax.metrics.inception_score import inception_score
from scm_jax.metrics.metric import Options
from scm_jax.metrics.pixels import pixel_extractor


@pytest.fixture(scope="module")
def extraction(hardly_trained):
  classifier = classifier_extractor(hardly_trained)
  pixels = pixel_extractor((8, 8, 1))
  return streaming.Extraction([classifier, pixels])


@pytest.fixture(scope="module")
def whole(digits, extraction):
  """Statistics of 700 digits in batches of 128."""
  return streaming.collect_images(digits[0][:700], extraction, size=128)


def test_sums_are_those_of_all_features_at_once(
  digits, extraction, whole, extract
):
  images = digits[0][:700]
  for extractor in extraction.extractors:
    x = extract(extractor, images).astype(np.float64)
    found = whole[extractor.name]
    moments = found["moments"]
    assert moments.n == 700
    np.testing.assert_allclose(moments.mean, x.mean(0), atol=1e-6)
    np.testing.assert_allclose(moments.covariance, np.cov(x.T), atol=1e-5)
    np.testing.assert_allclose(found["features"], x, atol=1e-5)
  assert "classes" not in whole["pixels"]
  assert whole["classifier"]["classes"].counts.sum() == 700


def test_batches_of_any_size(digits, extraction, whole):
  other = streaming.collect_images(digits[0][:700], extraction, size=33)
  real = streaming.collect_images(digits[0][700:], extraction, size=128)
  found, expected = (
    scores.score(mine, real, Options(subsets=1)) for mine in (other, whole)
  )
  for metric in ("fd", "kid", "inception_score"):
    assert found[metric] == pytest.approx(expected[metric], abs=1e-4)


@pytest.mark.slow
def test_eight_devices_give_the_same_numbers(whole, python):
  """In a process of its own, which has eight virtual ones."""
  program = pathlib.Path(__file__).parent / "eight_devices.py"
  found = json.loads(python(program).splitlines()[-1])
  assert found["devices"] == 8 and found["parts"] == [16] * 8
  pixels = whole["pixels"]["moments"]
  np.testing.assert_allclose(found["mean"], pixels.mean, atol=1e-5)
  np.testing.assert_allclose(found["m2"], pixels.m2, rtol=1e-5, atol=1e-3)


class _Killed(Exception):
  pass


def _batches(images, size, until=None):
  def batches(samples):
    for first in range(samples.start, len(images), size):
      if until is not None and first >= until:
        raise _Killed
      yield streaming.pad_batch(images[first : first + size], size)

  return batches


class _Places:
  """An observer that remembers what it saw."""

  def __init__(self):
    self.seen = np.zeros(0, int)

  def see(self, start, count, images):
    self.seen = np.concatenate([self.seen, np.arange(start, start + count)])

  def state(self):
    return {"seen": self.seen}

  def join(self, states):
    self.seen = np.concatenate([state["seen"] for state in states])


@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_pass_ends_with_the_same_bytes(
  digits, extraction, tmp_path, damaged, caplog
):
  images = digits[0][:300]
  expected = streaming.collect(
    extraction, _batches(images, 32), 300, keep=100, observer=_Places()
  )
  partial = PassCheckpoint(tmp_path / "partial", every=2)
  with pytest.raises(_Killed):
    streaming.collect(
      extraction,
      _batches(images, 32, until=230),
      300,
      keep=100,
      observer=_Places(),
      checkpoint=partial,
    )
  (file,) = partial.folder.iterdir()
  if damaged:
    file.write_bytes(file.read_bytes()[:-200])
  begun = []

  def batches(samples):
    begun.append(samples.start)
    return _batches(images, 32)(samples)

  places = _Places()
  found = streaming.collect(
    extraction, batches, 300, keep=100, observer=places, checkpoint=partial
  )
  assert begun == [0 if damaged else 192]
  assert (str(partial.folder) in caplog.text) == damaged
  assert places.seen.tolist() == list(range(300))
  for name, mine in found.items():
    theirs = expected[name]
    moments = [s["moments"] for s in (mine, theirs)]
    assert moments[0].m2.tobytes() == moments[1].m2.tobytes()
    assert moments[0].mean.tobytes() == moments[1].mean.tobytes()
    assert mine["features"].tobytes() == theirs["features"].tobytes()
    assert len(mine["features"]) == 100
  sums = [c["classifier"]["classes"] for c in (found, expected)]
  assert inception_score(sums[0]) == inception_score(sums[1])


def test_float32_features_far_from_zero_lose_nothing():
  """What sums of squares, or float32, would: 3e4 + N(0, 1)."""
  rng = np.random.default_rng(0)
  x = (3e4 + rng.normal(size=(5000, 3))).astype(np.float32)
  sums = accumulator.Accumulator(len(x))
  for part in np.split(x, 50):
    sums.add({"x": {"features": part}}, len(part))
  found = sums.result()["x"]["moments"]
  np.testing.assert_allclose(found.covariance, np.cov(x.T, dtype=float), 1e-9)


def test_kept_features_are_a_random_choice_of_samples():
  mask = accumulator.choose_kept(1000, 100)
  assert mask.sum() == 100
  assert len(set(np.flatnonzero(mask) % 10)) == 10  # of periodic labels, all
  assert 30 < mask[:500].sum() < 70  # of sorted ones, both ends
  assert accumulator.choose_kept(5, 9).all()


def test_samples_that_did_not_come_are_missed(digits, extraction):
  with pytest.raises(errors.UserError, match="64 of 100 samples"):
    streaming.collect(extraction, _batches(digits[0][:64], 32), 100)


def test_features_that_are_not_finite_are_an_error():
  sums = accumulator.Accumulator(4)
  with pytest.raises(errors.UserError, match="1 of 2 samples have non-finite"):
    sums.add({"x": {"features": np.array([[0.0, 1.0], [np.nan, 0.0]])}}, 2)


def test_many_features_of_many_sizes_against_a_closed_form():
  """Eigenvalues from 1e-10 to 1e6, in one basis."""
  rng = np.random.default_rng(1)
  dim = 200
  turn, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
  a, b = np.exp(rng.normal(-4, 4, size=(2, dim)))
  mean = np.zeros(dim)
  first, second = (
    frechet.Moments(None, mean, (turn * values) @ turn.T) for values in (a, b)
  )
  expected = np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
  found = frechet.frechet_distance(first, second)
  assert found == pytest.approx(expected, rel=1e-6)
