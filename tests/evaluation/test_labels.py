"""Classes of the samples: at random, balanced, or as the reference has them."""

import numpy as np
import pytest

from scm_jax.errors import ConfigError
from scm_jax.evaluation import labels
from scm_jax.evaluation.reference import Reference
from scm_jax.metrics import frechet

SORTED = Reference({}, {}, np.repeat([0, 1, 2], [50, 100, 150]))
NO_LABELS = Reference({}, {"dataset": "fid.npz"})


def data(num: int) -> np.ndarray:
  return labels.draw("data", SORTED, num, 3, seed=0)


def test_as_many_as_the_reference_are_its_own():
  np.testing.assert_array_equal(data(300), SORTED.labels)
  np.testing.assert_array_equal(data(600), np.tile(SORTED.labels, 2))


@pytest.mark.parametrize("num", [120, 420])
def test_each_class_has_its_share_of_a_part(num):
  found = data(num)
  assert len(found) == num
  expected = np.array([1 / 6, 1 / 3, 1 / 2]) * num
  np.testing.assert_allclose(np.bincount(found), expected, atol=1)
  part = found[-(num % 300) :]
  assert (np.diff(part) < 0).sum() > 20  # not sorted
  np.testing.assert_array_equal(found, data(num))


@pytest.mark.parametrize("way", ["balanced", labels.ALIASES["uniform"]])
def test_balanced_classes_need_no_reference(way):
  found = labels.draw(way, NO_LABELS, 10, 4, seed=0)
  assert np.bincount(found).tolist() == [3, 3, 2, 2]


@pytest.mark.parametrize("reference", [SORTED, NO_LABELS])
def test_a_random_label_is_a_function_of_seed_and_number(reference):
  """Not of how many there are; and another seed's are others."""
  draw = lambda num, seed: labels.draw("random", reference, num, 3, seed)
  many = draw(3000, 5)
  assert many.dtype == np.int32 and len(many) == 3000
  for num in (1, 10, 1234):
    np.testing.assert_array_equal(draw(num, 5), many[:num])
  same = (draw(3000, 6) == many).mean()  # as often as chance has it
  shares = [1 / 6, 1 / 3, 1 / 2] if reference is SORTED else [1 / 3] * 3
  assert same == pytest.approx(np.square(shares).sum(), abs=0.04)
  # Binomial counts: they scatter about the shares, and are not held to them.
  counts = np.array([np.bincount(draw(300, s), minlength=3) for s in range(99)])
  np.testing.assert_allclose(counts.mean(0) / 300, shares, atol=0.01)
  variance = 300 * np.array(shares) * (1 - np.array(shares))
  np.testing.assert_allclose(counts.var(0, ddof=1), variance, rtol=0.5)


def test_balanced_labels_flatter_a_distance():
  """A perfect generator whose classes differ in their means.

  Half of the variance is between classes; the distance of few samples is less
  where every class has its share.
  """
  rng = np.random.default_rng(0)
  dim, classes, num = 16, 8, 64
  means = rng.normal(size=(classes, dim))
  means -= means.mean(0)
  inside = np.sqrt(means.var(0).mean())
  truth = frechet.Moments(
    None, means.mean(0), np.cov(means.T, bias=True) + inside**2 * np.eye(dim)
  )

  def distance(way: str, seed: int) -> float:
    label = labels.draw(way, NO_LABELS, num, classes, seed)
    noise = np.random.default_rng(seed).normal(size=(num, dim))
    found = frechet.feature_stats(means[label] + inside * noise)
    return frechet.frechet_distance(found, truth)

  mean = lambda way: np.mean([distance(way, seed) for seed in range(200)])
  assert 0.6 < mean("balanced") / mean("random") < 0.95


@pytest.mark.parametrize("way", ["random", "data"])
@pytest.mark.parametrize("label", [-1, 3])
def test_classes_that_the_network_does_not_have(way, label):
  wrong = Reference({}, {}, np.array([0, label]))
  with pytest.raises(ConfigError, match=f"has a class {label}, .* 0 to 2"):
    labels.draw(way, wrong, 100, 3, seed=0)
  assert labels.draw("balanced", SORTED, 300, 2, seed=0).max() == 1


def test_a_reference_without_labels_says_so():
  with pytest.raises(ConfigError, match="fid.npz .* --labels=random"):
    labels.draw("data", NO_LABELS, 10, 4, seed=0)
  assert labels.draw("data", NO_LABELS, 10, 0, seed=0) is None
