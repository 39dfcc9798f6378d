"""Classes of the samples, as the reference or a request has them."""

import numpy as np
import pytest

from scm_jax.errors import ConfigError
from scm_jax.evaluating.reference import Reference
from scm_jax.evaluating.request import Request
from scm_jax.evaluating.scoring import labels_of

SORTED = Reference({}, {}, np.repeat([0, 1, 2], [50, 100, 150]))


def test_as_many_as_the_reference_are_its_own():
  labels = labels_of(Request(()), SORTED, 300, 3)
  np.testing.assert_array_equal(labels, SORTED.labels)
  twice = labels_of(Request(()), SORTED, 600, 3)
  np.testing.assert_array_equal(twice, np.tile(SORTED.labels, 2))


@pytest.mark.parametrize("num", [120, 420])
def test_each_class_has_its_share_of_a_part(num):
  labels = labels_of(Request(()), SORTED, num, 3)
  assert len(labels) == num
  expected = np.array([1 / 6, 1 / 3, 1 / 2]) * num
  np.testing.assert_allclose(np.bincount(labels), expected, atol=1)
  part = labels[-(num % 300) :]
  assert (np.diff(part) < 0).sum() > 20  # not sorted
  np.testing.assert_array_equal(labels, labels_of(Request(()), SORTED, num, 3))


def test_uniform_classes_need_no_reference():
  request = Request((), labels="uniform")
  labels = labels_of(request, Reference({}, {}), 10, 4)
  assert np.bincount(labels).tolist() == [3, 3, 2, 2]


def test_a_reference_without_labels_says_so():
  request = Request((), reference="fid.npz")
  with pytest.raises(ConfigError, match="fid.npz .* --labels=uniform"):
    labels_of(request, Reference({}, {}), 10, 4)
  assert labels_of(request, Reference({}, {}), 10, 0) is None
