"""What several processes must have in common, and what they do not do."""

import pytest

from scm_jax.errors import ConfigError, UserError
from scm_jax.evaluation import evaluate
from scm_jax.evaluation.request import (
  CandidateGrid,
  Request,
  RuntimeOptions,
)
from scm_jax.metrics import multihost


@pytest.fixture
def others(monkeypatch):
  """`others(answer)`: a second process answers `answer(value)`."""

  def set_to(answer):
    every = lambda value: iter([value, answer(value)])
    monkeypatch.setattr(multihost, "all_gather_objects", every)

  return set_to


def test_all_are_asked_the_same(others):
  others(lambda value: value)
  evaluate.check_processes([{"num": 5}, 7], RuntimeOptions())
  others(lambda value: "of other weights")
  with pytest.raises(UserError, match="process 1 has another request"):
    evaluate.check_processes([{"num": 5}, 7], RuntimeOptions())


def test_samples_are_kept_by_one(others):
  evaluate.check_processes([], RuntimeOptions(save_samples=True))
  others(lambda value: value)
  with pytest.raises(ConfigError, match="--save-samples"):
    evaluate.check_processes([], RuntimeOptions(save_samples=True))


def test_a_request_is_kept_as_flat_fields():
  """As reports of all versions have them, so that those are not made again."""
  weights = (("inception", "w.pth"),)
  grid = CandidateGrid(("run",))
  fields = Request(grid, features=("inception",), weights=weights).fields()
  assert fields == {
    "workdirs": ("run",),
    "steps": (1, 2),
    "teacher_steps": (),
    "num": 0,
    "seeds": (0,),
    "guidance": (),
    "ema": (0.0,),
    "t_mid": (),
    "changes": (),
    "dtype": "",
    "select_num": 0,
    "select_by": "fd",
    "labels": "random",
    "reference": None,
    "features": ("inception",),
    "weights": (("inception", "w.pth"),),
    "autoencoder": None,
    "keep": 10_000,
    "allow_few": False,
  }
