"""An objective may train, keep and restore a network beside the student's."""

import pathlib

import numpy as np
import pytest

from scm_jax import objectives
from scm_jax.cli import configs
from scm_jax.training import workdir

WEIGHT = "train['extra']['critic']['params']['denoiser']['conv_in']['weight']"


@pytest.fixture(scope="module")
def registered():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(pathlib.Path(__file__).parent)
    import critic

    patch.setitem(objectives.OBJECTIVES, "critic", critic.CRITIC)
    yield


@pytest.fixture
def make(registered, make_config, reference):
  """`make(**fields)`: the config of the reference student, with a critic."""

  def config(**fields):
    config = make_config("scd", f"--config.teacher={reference}").unlock()
    config.run = "critic"
    config.objective.critic_learning_rate = 1e-3
    config.objective.update(fields)
    return config

  return config


@pytest.mark.slow
def test_both_are_trained_and_resumed_to_the_bit(
  make,
  train,
  train_until,
  state_at,
  assert_equal_states,
  reference_student,
  tmp_path,
):
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  assert train(make(), whole)
  train_until(6, make(), cut)
  assert train(make(), cut)
  end = state_at(whole, 8)
  assert_equal_states(state_at(cut, 8), end)
  # The student is the one that it would have been without a critic.
  alone = state_at(reference_student, 8)
  assert_equal_states({name: end[name] for name in alone}, alone)
  # The critic learns, by its own rate.
  extra = {name for name in end if name.startswith("train['extra']['critic']")}
  assert extra == end.keys() - alone.keys()
  moved = state_at(whole, 2)[WEIGHT] - end[WEIGHT]
  assert np.abs(moved).max() > 0

  # Nothing of it is in what is drawn from and exported.
  model, _ = workdir.load(whole)
  assert set(model.params) == {"denoiser", "weighting"}


@pytest.mark.slow
def test_it_begins_as_the_teacher_and_moves_by_its_own_rate(
  make, train, state_at, reference, tmp_path
):
  teacher, _ = workdir.load(reference)
  start = np.asarray(teacher.params["denoiser"]["conv_in"]["weight"])
  assert train(make(critic_learning_rate=0.0), tmp_path)
  still = state_at(tmp_path, 8)[WEIGHT]
  np.testing.assert_allclose(still, start, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_it_begins_as_the_adapted_teacher_that_a_run_starts_from(
  train, state_at, data_dir, tmp_path
):
  """The layers of the teacher itself are another function of its weights."""

  def run(name, objective, *fields):
    config = configs.parse_config(
      [
        f"--config=configs/digits_dit.py:run={objective},tiny",
        f"--config.data.data_dir={data_dir}",
        *("--config.total_steps=2", "--config.snapshot_at=()"),
        *("--config.guide=", "--config.objective.guidance=none"),
        *fields,
      ]
    )
    assert train(config, tmp_path / name)

  teacher = f"--config.teacher={tmp_path / 'teacher'}"
  run("teacher", "teacher", "--config.network.norm=layer")
  run("adapted", "teacher", teacher, "--config.objective.target=teacher")
  rate = "--config.optimizer.learning_rate=0"
  start = f"--config.start={tmp_path / 'adapted'}"
  run("student", "scd_vsd", teacher, start, rate)
  adapted, _ = workdir.load(tmp_path / "adapted")
  expected = adapted.params["denoiser"]["patches"]["weight"]
  weight = state_at(tmp_path / "student", 2)[
    WEIGHT.replace("conv_in", "patches")
  ]
  np.testing.assert_array_equal(weight, expected)
