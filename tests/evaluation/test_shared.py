"""What several processes must have in common, and what they do not do."""

import pytest

from scm_jax.errors import ConfigError, UserError
from scm_jax.evaluation import evaluate
from scm_jax.evaluation.request import Way
from scm_jax.metrics import multihost


@pytest.fixture
def others(monkeypatch):
  """`others(answer)`: a second process answers `answer(value)`."""

  def set_to(answer):
    every = lambda value: iter([value, answer(value)])
    monkeypatch.setattr(multihost, "every", every)

  return set_to


def test_all_are_asked_the_same(others):
  others(lambda value: value)
  evaluate._check_shared([{"num": 5}, 7], Way())
  others(lambda value: "of other weights")
  with pytest.raises(UserError, match="process 1 is asked another thing"):
    evaluate._check_shared([{"num": 5}, 7], Way())


def test_samples_are_kept_by_one(others):
  evaluate._check_shared([], Way(save_samples=True))
  others(lambda value: value)
  with pytest.raises(ConfigError, match="--save-samples: one process writes"):
    evaluate._check_shared([], Way(save_samples=True))
