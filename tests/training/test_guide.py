"""An early snapshot of a run guides the finished one (autoguidance)."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import scm_jax
from scm_jax.cli import main
from scm_jax.errors import ConfigError, UserError
from scm_jax.evaluation import selection
from scm_jax.evaluation.candidate import DrawnImages
from scm_jax.evaluation.request import CandidateGrid, NetworkOptions
from scm_jax.training import initialization, resolve, workdir
from scm_jax.training.ema import averaging

pytestmark = pytest.mark.slow

EARLY = 4  # the step of the snapshot
FLAGS = (
  f"--config.snapshot_at=({EARLY},)",
  "--config.snapshot_dtype=float32",
  "--config.total_steps=8",
)
STRONG = 300.0  # a scale that shows what few small steps have changed
GUIDED = (
  "--config.objective.guidance=fixed",
  "--config.objective.guidance_scale=2.0",
  "--config.objective.state_steps=2",  # at the states of what is guided
)


@pytest.fixture(scope="module")
def teacher(train, train_until, make_config, shared):
  """A teacher that lost its early snapshot in a crash, and made it again."""

  def make(folder):
    config = make_config("teacher", *FLAGS)
    train_until(EARLY + 2, config, folder)
    shutil.rmtree(folder / f"snapshots/{EARLY}")
    shutil.rmtree(folder / f"checkpoints/{EARLY}")
    assert train(config, folder)

  return shared("early_snapshot", make)


@pytest.fixture
def student(teacher, make_config):
  """`student(*flags)`: the config of a student of the guided teacher."""

  def make(*flags):
    folders = f"--config.teacher={teacher}", f"--config.guide={weak(teacher)}"
    given = *folders, "--config.total_steps=4", *GUIDED, *flags
    return make_config("scd", *given)

  return make


def weak(teacher):
  return teacher / f"snapshots/{EARLY}"


def distance(a, b):
  """The squared distance of two trees of parameters."""
  pairs = zip(*map(jax.tree.leaves, (a.params, b.params)), strict=True)
  return sum(float(np.square(x - y).sum()) for x, y in pairs)


def test_a_snapshot_is_the_model_of_its_step(teacher, reference):
  """Its EMAs are those of the checkpoint there."""
  config = workdir.load_config(teacher)
  for ema in config.ema:
    model, about = workdir.load(weak(teacher), ema)
    assert (about["step"], about["ema"]) == (EARLY, averaging.name(ema))
    there, _ = workdir.load(reference / f"checkpoints/{EARLY}", ema)
    assert distance(model, there) == 0
    assert distance(model, workdir.load(teacher, ema)[0]) > 0
  with pytest.raises(UserError, match="no snapshot of step 3; it has 4"):
    workdir.load(teacher / "snapshots/3")
  with pytest.raises(UserError, match="half-life"):
    workdir.load(weak(teacher), 700.0)


def test_a_width_that_no_snapshot_has_is_reconstructed_there(teacher):
  model, about = workdir.load(weak(teacher), 0.12)
  assert (about["step"], about["ema"]) == (EARLY, "0.120")
  near, _ = workdir.load(weak(teacher), 0.1)
  far, _ = workdir.load(weak(teacher), 0.05)
  assert 0 < distance(model, near) < distance(model, far)


def test_a_student_of_a_guided_teacher_resumes_to_the_bit(
  teacher, student, train, train_until, state_at, assert_equal_states, tmp_path
):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  assert train(student(), whole)
  train_until(3, student(), parts)
  assert train(student(), parts)
  assert_equal_states(state_at(whole, 4), state_at(parts, 4))

  noted = json.loads((parts / workdir.TEACHER).read_text())
  assert (noted["step"], noted["guide"]["step"]) == (8, EARLY)
  assert noted["guide"]["workdir"] == str(weak(teacher))
  # Guided by another EMA, the student would be another one.
  other = student("--config.guide_ema=0.05")
  with pytest.raises(ConfigError, match="guided by .* at step 4, average 0.05"):
    initialization.load_teacher(resolve.resolve(other), parts, begun=True)


def test_what_the_step_is_given_to_guide_with(teacher, student, tmp_path):
  model = initialization.load_teacher(
    resolve.resolve(student()), tmp_path, begun=False
  )
  guide = dataclasses.replace(model, params=model.guidance_params)
  assert distance(guide, workdir.load(weak(teacher))[0]) == 0
  assert distance(model, workdir.load(teacher)[0]) == 0


def test_a_guide_named_within_its_teacher_is_the_teachers_own(
  teacher, student, tmp_path
):
  """Whatever checkpoint of the teacher is distilled."""
  for folder in (teacher, teacher / f"checkpoints/{EARLY}"):
    config = student(
      f"--config.teacher={folder}", f"--config.guide=snapshots/{EARLY}"
    )
    run = tmp_path / folder.name
    run.mkdir()
    model = initialization.load_teacher(
      resolve.resolve(config), run, begun=False
    )
    guide = dataclasses.replace(model, params=model.guidance_params)
    assert distance(guide, workdir.load(weak(teacher))[0]) == 0
    noted = json.loads((run / workdir.TEACHER).read_text())
    assert noted["guide"]["workdir"] == str(weak(teacher))
  config = student("--config.guide=snapshots/5")
  with pytest.raises(UserError, match="guide=snapshots/5: .* it has 4"):
    initialization.load_teacher(resolve.resolve(config), tmp_path, begun=False)


def test_a_teacher_draws_guided_by_its_early_self(teacher, capsys, tmp_path):
  sampler = scm_jax.load(teacher)
  guided = sampler.guided_by(scm_jax.load(weak(teacher)))
  draw = lambda sampler, scale: sampler.sample(
    [1, 2], steps=3, guidance=scale
  ).astype(int)
  plain = draw(sampler, 1.0)
  np.testing.assert_array_equal(draw(guided, 1.0), plain)
  assert np.abs(draw(guided, STRONG) - plain).max() > 1
  # Guided by itself, a network stays what it is.
  assert np.abs(draw(sampler.guided_by(sampler), 4.0) - plain).max() <= 1

  argv = f"--workdir={teacher}", "--steps=3", "--num=2", "--labels=1,2"
  argv = "sample", *argv, f"--guidance={STRONG}", f"--guide={weak(teacher)}"
  assert main.main([*argv, f"--out={tmp_path}"]) == 0
  assert "10 network evaluations each" in capsys.readouterr().out
  drawn = np.load(tmp_path / "samples.npz")["samples"]
  np.testing.assert_array_equal(drawn, draw(guided, STRONG))


def test_an_evaluation_draws_guided_and_says_so(teacher, reference_student):
  folder = str(weak(teacher))
  load = selection.make_loader(NetworkOptions(guide=folder))
  model, metadata = load(str(teacher), 0.0)
  guide = dataclasses.replace(model, params=model.guidance_params)
  assert distance(guide, workdir.load(folder)[0]) == 0
  drawn = DrawnImages(model, 3, 2.0, metadata, str(teacher))
  assert drawn.facts()["nfe"] == 10
  first = averaging.name(metadata["config"].ema[0])
  seen = {"workdir": folder, "step": EARLY, "ema": first}
  assert drawn.facts()["guide"] == seen
  plain, _ = selection.make_loader(NetworkOptions())(str(teacher), 0.0)
  unguided = dataclasses.replace(drawn, model=plain)
  assert unguided.fingerprint() != drawn.fingerprint()
  grid = CandidateGrid((str(reference_student),))
  with pytest.raises(ConfigError, match="none of the runs is a diffusion"):
    selection.check_guidance(grid, load, NetworkOptions(guide=folder))


def test_guides_that_do_not_fit(
  teacher, student, make_config, reference_student, tmp_path
):
  sampler, other = scm_jax.load(teacher), scm_jax.load(reference_student)
  for pair in ((sampler, other), (other, sampler)):
    with pytest.raises(ConfigError, match="only a diffusion model can be"):
      pair[0].guided_by(pair[1])
  config = student(f"--config.guide={reference_student}")
  with pytest.raises(ConfigError, match=f"config.guide={reference_student}: "):
    initialization.load_teacher(resolve.resolve(config), tmp_path, begun=False)
  with pytest.raises(ConfigError, match="no teacher is guided"):
    resolve.check(student("--config.objective.guidance=none"))
  for run in ("sct", "cmt", "tcm"):
    given = "--config.teacher=any", "--config.objective.state_steps=2"
    with pytest.raises(ConfigError, match="state_steps is 2, but this run of"):
      resolve.check(make_config(run, *given))
  with pytest.raises(ConfigError, match="state_steps is -1; give a number"):
    resolve.check(student("--config.objective.state_steps=-1"))
  with pytest.raises(ConfigError, match="names step 0"):
    resolve.check(student("--config.snapshot_at=(0,)"))
