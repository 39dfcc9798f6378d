"""KID against a double loop, its lack of bias, its seed."""

import itertools

import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import kernel
from scm_jax.metrics.metric import Options


def _double_loop(x, y):
  def k(a, b):
    return (sum(a * b) / len(a) + 1) ** 3

  def within(z):
    pairs = list(itertools.permutations(range(len(z)), 2))
    return sum(k(z[i], z[j]) for i, j in pairs) / len(pairs)

  across = sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
  return within(x) + within(y) - 2 * across


def test_agrees_with_a_double_loop():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) * 2 + 1
  assert kernel.unbiased_mmd2(x, y) == pytest.approx(_double_loop(x, y))
  assert kernel.unbiased_mmd2(y, x) == pytest.approx(_double_loop(x, y))


def test_is_unbiased_on_equal_distributions_at_any_size():
  rng = np.random.default_rng(1)
  for size in (4, 40):
    values = [
      kernel.unbiased_mmd2(*rng.normal(size=(2, size, 3))) for _ in range(3000)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    # Counting a sample's pair with itself would add (E k(x,x) - E k(x,y)) * 2
    # / size; this must be far outside the tolerance for the test to mean much.
    x, y = rng.normal(size=(2, 10_000, 3))
    own = np.mean((np.sum(x * x, 1) / 3 + 1) ** 3)
    other = np.mean((np.sum(x * y, 1) / 3 + 1) ** 3)
    assert 2 * (own - other) / size > 20 * error


def test_sees_a_difference():
  rng = np.random.default_rng(2)
  x, y = rng.normal(size=(2, 300, 4))
  options = Options(subset_size=100, subsets=30)
  same, sd = kernel.kernel_distance(x, y, options)
  far, _ = kernel.kernel_distance(x, 1.5 * y, options)
  assert abs(same) < 5 * sd
  assert far > 5 * sd
  assert far == pytest.approx(kernel.unbiased_mmd2(x, 1.5 * y), rel=0.5)


def test_subsets_follow_the_seed():
  x, y = np.random.default_rng(3).normal(size=(2, 60, 2))
  one, two = (Options(seed, subset_size=20, subsets=5) for seed in (1, 2))
  first = kernel.kernel_distance(x, y, one)
  assert first == kernel.kernel_distance(x, y, one)
  assert first != kernel.kernel_distance(x, y, two)
  assert first[1] > 0


def test_small_sets_are_used_whole():
  x, y = np.random.default_rng(4).normal(size=(2, 30, 2))
  found = kernel.kernel_distance(x, y, Options())
  assert found == (kernel.unbiased_mmd2(x, y), 0.0)


def test_unequal_sizes_draw_as_many_from_each():
  rng = np.random.default_rng(5)
  x, y = rng.normal(size=(10, 2)), rng.normal(size=(50, 2))
  mean, sd = kernel.kernel_distance(x, y, Options(subsets=4))
  assert np.isfinite(mean)
  assert sd > 0


def test_one_sample_is_too_few():
  with pytest.raises(errors.UserError, match="2 samples a side"):
    kernel.kernel_distance(np.zeros((1, 2)), np.zeros((9, 2)), Options())
