"""Where runs begin: the weights they start with, and that these stay theirs."""

import functools

import jax
import numpy as np
import pytest

from scm_jax import compilation
from scm_jax.errors import ConfigError
from scm_jax.networks import magnitude
from scm_jax.training import loop, run_folder, workdir
from scm_jax.training.ema import averaging
from scm_jax.training.step import TrainState


def test_a_run_that_goes_on_need_not_say_where_it_began(
  make_config, train, reference, tmp_path, caplog
):
  begun = make_config("teacher", "--config.total_steps=2")
  begun.start = str(reference)
  assert train(begun, tmp_path)
  same = f"{reference}/"
  for steps, start in ((3, ""), (4, same), (5, "elsewhere")):
    assert "has no effect" not in caplog.text
    begun.total_steps, begun.start = steps, start
    assert train(begun, tmp_path)
    assert workdir.load_config(tmp_path).start == str(reference)
  assert "config.start=elsewhere has no effect" in caplog.text


def test_checkpoints_without_a_config_are_not_gone_on_with(
  make_config, train, tmp_path
):
  config = make_config("teacher", "--config.total_steps=2")
  assert train(config, tmp_path)
  (tmp_path / "config.json").unlink()
  with pytest.raises(ConfigError, match="checkpoints but no config.json"):
    train(config, tmp_path)


def test_a_run_without_weights_may_begin_elsewhere(
  make_config, train, reference, tmp_path
):
  """As after a kill before the first checkpoint."""
  config = make_config("teacher", "--config.total_steps=2")
  for i, (before, now) in enumerate((("", reference), (reference, ""))):
    folder = tmp_path / str(i)
    folder.mkdir()
    config.start = str(before)
    run_folder.write_config(folder, config)
    config.start = str(now)
    assert train(config, folder)
    assert workdir.load_config(folder).start == str(now)


def test_a_run_cannot_begin_elsewhere_after_it_began(
  make_config, train, reference, tmp_path
):
  for field in ("start", "teacher"):
    folder = tmp_path / field
    begun = make_config("sct", "--config.total_steps=2")
    begun.teacher = ""
    assert train(begun, folder)
    later = begun.copy_and_resolve_references()
    later.total_steps, later[field] = 4, str(reference)
    with pytest.raises(ConfigError, match=f"began without config.{field}"):
      train(later, folder)


def test_a_weighting_head_of_another_kind_is_not_dropped_in_silence(
  reference, train, make_config, tmp_path
):
  config = make_config(
    *("sct", f"--config.teacher={reference}"),
    "--config.objective.reset_weighting=false",
  )
  with pytest.raises(ConfigError, match="config.network.weighting=positional"):
    train(config, tmp_path)


@pytest.mark.parametrize("reset", [True, False])
def test_student_starts_from_the_teachers_average(
  reset, reference, train, make_config, state_at, monkeypatch, tmp_path
):
  """Its first state, seen as it goes into the first step."""

  class Seen(Exception):
    """Ends the run."""

  starts = []
  make = loop.program.make

  def spying(*args):
    def first_step(state, *rest):
      starts.append(jax.device_get(state))
      raise Seen

    return make(*args)._replace(step=first_step)

  monkeypatch.setattr(loop.program, "make", spying)
  config = make_config(
    "sct",
    f"--config.teacher={reference}",
    f"--config.objective.reset_weighting={reset}",
    "--config.network.weighting=fourier",  # the teacher's
    f"--config.teacher_ema={make_config('teacher').ema[1]}",
  )
  with pytest.raises(Seen):
    train(config, tmp_path)
  [start] = starts
  assert isinstance(start, TrainState) and start.step == 0

  teacher, about = workdir.load(reference, config.teacher_ema)
  quickly = compilation.options("cpu", once=True)
  draw = jax.jit(teacher.network.init, compiler_options=quickly)
  drawn = draw(jax.random.key(1))["weighting"]
  kept = teacher.params["weighting"]
  assert not np.array_equal(drawn["linear"]["kernel"], kept["linear"]["kernel"])
  for name, leaf in start.params["weighting"].items():
    expected = drawn if reset else kept
    jax.tree.map(np.testing.assert_array_equal, leaf, expected[name])
  # Equal but for rounding: a filter on the sphere is normalised once more.
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
  jax.tree.map(close, start.params["denoiser"], teacher.params["denoiser"])
  for sigma_rel in config.ema:
    average = start.ema[averaging.name(sigma_rel)]
    jax.tree.map(np.testing.assert_array_equal, average, start.params)

  # The average that was asked for, not the parameters the teacher ended with.
  saved = state_at(reference, 12)
  path = "['denoiser']['conv_in']['weight']"
  kernel = saved[f"ema['{about['ema']}']{path}"]
  assert not np.allclose(kernel, saved[f"train['params']{path}"], rtol=1e-4)
  close(
    start.params["denoiser"]["conv_in"]["weight"],
    magnitude.normalize_weights({"weight": kernel})["weight"],
  )
