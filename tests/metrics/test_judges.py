"""The judges that confirm: another classifier, and features of no training."""

import jax
import numpy as np
import pytest

from scm_jax.metrics import (
  classifier,
  extractor,
  frechet,
  judge,
  random_features,
)
from scm_jax.metrics.extractor import Source
from scm_jax.metrics.pixels import pixel_extractor
from scm_jax.reporting import records


def _random(shape):
  return random_features.extractor(Source(shape, lambda: None, {}, ""))


@pytest.mark.slow
def test_reads_digits_it_has_not_seen_and_errs_elsewhere(digits, trained):
  images, labels = digits
  second = classifier.train(images, labels, judge.JudgeSettings())
  assert second.accuracy >= 0.97
  noise = np.random.default_rng(0).normal(0, 60, images.shape)
  noisy = np.clip(images + noise, 0, 255).astype(np.uint8)
  wrong = []
  for made in (trained, second):
    e = classifier.classifier_extractor(made)
    wrong.append(np.asarray(e.apply(e.params, noisy)["label"]) != labels)
  # What one gets wrong is no reason for the other to do so.
  assert np.mean(wrong[0] & wrong[1]) < 0.7 * min(np.mean(w) for w in wrong)


def test_it_is_another_network_of_another_seed_with_its_own_scores(digits):
  few = judge.JudgeSettings(steps=2, channels=4)
  images, labels = digits[0][:100], digits[1][:100]
  made = classifier.train(images, labels, few)
  second = classifier.classifier_extractor(made, judge.NAME)
  first = classifier.Settings()
  assert made.network.settings.seed != first.seed
  assert type(made.network) is not type(first.network(10))
  assert second.facts == {"judge_accuracy": made.accuracy}
  outputs = second.apply(second.params, images[:7])
  assert outputs["features"].shape == (7, 32)
  logits = np.asarray(outputs["logits"])
  np.testing.assert_array_equal(outputs["label"], logits.argmax(axis=1))


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (2, 12, 16, 1)])
def test_it_takes_other_sizes_and_channels(shape):
  network = judge.JudgeSettings(channels=4).network(3)
  images = jax.random.normal(jax.random.key(0), shape)
  (features, logits), _ = network.init_with_output(jax.random.key(1), images)
  assert features.shape == (2, 32) and logits.shape == (2, 3)
  assert np.abs(features).max() > 0


def test_nothing_is_chosen_by_them():
  for others in (["pixels"], ["classifier"], ["dinov2", "pixels"]):
    for judged in ("judge", "random"):
      assert records.main_space([judged, *others]) == others[0]
  assert extractor.JUDGES == {judge.NAME, random_features.NAME}


def test_untrained_features_see_what_is_wrong(digits, extract):
  """Each of these moves a perfect set farther than halves of it are apart."""
  images, labels = digits
  order = np.random.default_rng(0).permutation(len(images))
  half, other = order[:898], order[898:1796]
  untrained = _random((8, 8, 1))
  stats = lambda x: frechet.feature_stats(extract(untrained, x))
  real = stats(images[half])
  fresh = images[other].astype(float)
  blurred = (fresh + np.roll(fresh, 1, 1) + np.roll(fresh, 1, 2)) / 3
  wrong = {
    "blurred": blurred,
    "darker": 0.9 * fresh,
    "a class is missing": fresh[labels[other] != 3],
    "every image twice": np.repeat(fresh[:449], 2, axis=0),
  }
  floor = frechet.frechet_distance(stats(images[other]), real)
  for name, changed in wrong.items():
    found = frechet.frechet_distance(stats(changed.astype(np.uint8)), real)
    assert found > 1.3 * floor, name


def test_untrained_features_are_the_same_everywhere(extract):
  one, again = _random((12, 16, 3)), _random((12, 16, 3))
  assert one.fingerprint() == again.fingerprint()
  assert one.fingerprint() != _random((16, 16, 3)).fingerprint()
  images = np.random.default_rng(1).integers(0, 256, (9, 12, 16, 3), np.uint8)
  found = extract(one, images)
  assert found.shape == (9, one.dim)
  np.testing.assert_allclose(extract(one, images[3:5]), found[3:5], rtol=1e-4)
  # Not a linear map of pixels, as their average is.
  pixels = pixel_extractor((12, 16, 3))
  middle = images // 2
  linear = lambda e: np.abs(extract(e, middle) * 2 - extract(e, images)).max()
  assert linear(pixels) < 1.1 and linear(one) < 0.1
