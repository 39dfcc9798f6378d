"""Runs of mid-training: resumed, and as the start of other runs."""

import numpy as np
import pytest

from scm_jax.errors import ConfigError
from scm_jax.training import workdir

pytestmark = pytest.mark.slow

EMBEDDING = "train['params']['denoiser']['embedding']"
STEPS = ("--config.objective.path_steps=3", "--config.objective.ends=path")


@pytest.fixture(scope="module")
def begun(train, make_config, reference, shared):
  """The workdir of a network that jumps from any state to any later one."""
  config = make_config("cmt", f"--config.teacher={reference}", *STEPS)
  return shared("mid_training", lambda folder: train(config, folder))


def test_it_is_resumed_to_the_bit(
  begun,
  train,
  train_until,
  make_config,
  reference,
  state_at,
  assert_equal_states,
  read_metrics,
  tmp_path,
):
  config = make_config("cmt", f"--config.teacher={reference}", *STEPS)
  train_until(6, config, tmp_path)
  assert train(config, tmp_path)
  assert_equal_states(state_at(tmp_path, 8), state_at(begun, 8))
  assert read_metrics(tmp_path) == read_metrics(begun)
  for line in read_metrics(begun):
    assert np.isfinite(line["loss"]) and line["mse"] > 0
    assert line["nonfinite_samples"] == 0


@pytest.mark.parametrize(
  "run", ["scd", pytest.param("ayf", marks=pytest.mark.slow)]
)
def test_students_begin_with_its_average(
  run, begun, train, make_config, reference, state_at, tmp_path
):
  """And a flow map goes on with the second time that it has learnt."""
  config = make_config(
    run,
    f"--config.teacher={reference}",
    f"--config.start={begun}",
    "--config.optimizer.learning_rate=0.0",
    "--config.total_steps=2",
  )
  assert train(config, tmp_path)
  average, _ = workdir.load(begun)
  state = state_at(tmp_path, 2)
  layers = average.params["denoiser"]["embedding"]
  kernel = np.asarray(layers["emb_target"]["kernel"])
  assert np.abs(kernel).max() > 0
  told = [name for name in state if "emb_target" in name]
  assert bool(told) == (run == "ayf")
  if told:
    found = state[f"{EMBEDDING}['emb_target']['kernel']"]
    np.testing.assert_allclose(found, kernel, rtol=1e-5, atol=1e-7)
  name = f"{EMBEDDING}['emb_label']['weight']"
  ours, theirs = state[name], np.asarray(layers["emb_label"]["weight"])
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_map_begins_with_a_network_of_one_time(
  reference_student, train, make_config, reference, state_at, tmp_path
):
  """The second time then makes no difference before the first step."""
  config = make_config(
    "ayf",
    f"--config.teacher={reference}",
    f"--config.start={reference_student}",
    "--config.optimizer.learning_rate=0.0",
    "--config.total_steps=2",
  )
  assert train(config, tmp_path)
  assert not state_at(tmp_path, 2)[f"{EMBEDDING}['emb_target']['kernel']"].any()


def test_tcm_follows_a_consistency_model(
  reference_student, train, train_until, make_config, read_metrics, tmp_path
):
  config = make_config("tcm", f"--config.teacher={reference_student}")
  train_until(6, config, tmp_path)
  assert train(config, tmp_path)
  lines = read_metrics(tmp_path)
  assert [line["step"] for line in lines] == [2, 4, 6, 8]
  for line in lines:
    assert np.isfinite(line["loss"]) and line["tangent_norm"] > 0
    # No sample is earlier than the border, 1.107 radians.
    assert not any(f"loss/t={t}" in line for t in ("0.10", "0.49", "0.88"))


def test_a_teacher_of_the_wrong_kind(train, make_config, reference, tmp_path):
  config = make_config("tcm", f"--config.teacher={reference}")
  with pytest.raises(ConfigError, match="is not a consistency teacher's"):
    train(config, tmp_path)


def test_a_teacher_with_an_input_that_it_is_not_given(
  begun, train, make_config, tmp_path
):
  config = make_config("tcm", f"--config.teacher={begun}")
  with pytest.raises(ConfigError, match="takes target as an input, which"):
    train(config, tmp_path)
