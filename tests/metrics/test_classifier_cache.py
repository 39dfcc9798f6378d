"""The classifier's cache: found, replaced when wrong, never in the way."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from scm_jax.metrics import classifier

_SHORT = classifier.Settings(steps=3, channels=4, features=6)


@pytest.fixture(scope="module")
def data(digits):
  return digits[0][:60], digits[1][:60]


@pytest.fixture(scope="module")
def tiny(data):
  """What training on the data gives."""
  return classifier.train(*data, _SHORT)


@pytest.fixture
def trainings(tiny, monkeypatch):
  """Counts the trainings, which are replaced by their result."""
  calls = []

  def counted(*args):
    calls.append(args)
    return tiny

  monkeypatch.setattr(classifier, "train", counted)
  return calls


def test_trains_what_is_not_cached(data, tiny, tmp_path):
  found = classifier.load_or_train(*data, tmp_path, _SHORT)
  jax.tree.map(np.testing.assert_array_equal, found.params, tiny.params)


def test_second_call_loads_the_same(data, trainings, tmp_path, caplog):
  cache = tmp_path / "made" / "here"
  first = classifier.load_or_train(*data, cache, _SHORT)
  second = classifier.load_or_train(*data, cache, _SHORT)
  assert len(trainings) == 1
  jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
  for field in dataclasses.fields(classifier.Classifier):
    if field.name != "params":
      assert getattr(first, field.name) == getattr(second, field.name)
  assert not caplog.records


def test_other_data_labels_or_settings_are_other_classifiers(
  data, trainings, tmp_path
):
  images, labels = data
  darker, relabelled = images.copy(), labels.copy()
  darker[0, 0, 0, 0] += 1
  relabelled[0] = (relabelled[0] + 1) % 10
  longer = dataclasses.replace(_SHORT, steps=4)
  for arguments in (
    (images, labels, tmp_path, _SHORT),
    (darker, labels, tmp_path, _SHORT),
    (images, relabelled, tmp_path, _SHORT),
    (images, labels, tmp_path, longer),
  ):
    classifier.load_or_train(*arguments)
  assert len(trainings) == 4
  assert len(list(tmp_path.iterdir())) == 4


def _truncate(path):
  path.write_bytes(path.read_bytes()[:-200])


def _empty(path):
  path.write_bytes(b"")


def _rewrite(path, **changes):
  with np.load(path) as file:
    content = {**file, **changes}
  np.savez(path, **content)


def _of_another(path):
  _rewrite(path, fingerprint="0" * 64)


def _reshape(path):
  _rewrite(path, **{"params/features/bias": np.zeros(3, np.float32)})


@pytest.mark.parametrize("damage", [_truncate, _empty, _of_another, _reshape])
def test_wrong_file_is_replaced_with_one_line(
  damage, data, trainings, tmp_path, caplog
):
  first = classifier.load_or_train(*data, tmp_path, _SHORT)
  (path,) = tmp_path.iterdir()
  damage(path)
  with caplog.at_level(logging.WARNING):
    second = classifier.load_or_train(*data, tmp_path, _SHORT)
  assert len(trainings) == 2
  jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
  (record,) = caplog.records
  assert path.name in record.getMessage()
  assert "\n" not in record.getMessage()
  classifier.load_or_train(*data, tmp_path, _SHORT)
  assert len(trainings) == 2  # the replacement is good


def test_unwritable_cache_costs_a_warning_only(
  data, tiny, trainings, tmp_path, caplog
):
  blocked = tmp_path / "file"
  blocked.write_bytes(b"")
  found = classifier.load_or_train(*data, blocked, _SHORT)
  assert found is tiny
  (record,) = caplog.records
  assert str(blocked) in record.getMessage()
