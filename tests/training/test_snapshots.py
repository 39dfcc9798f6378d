"""Snapshots are whole or absent, and survive whatever ends a run."""

import json
import logging
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from scm_jax.errors import UserError
from scm_jax.networks import magnitude
from scm_jax.training import initialization, resolve, workdir
from scm_jax.training.checkpoints.storage import Checkpoints
from scm_jax.training.ema import averaging, loading, posthoc, snapshots
from scm_jax.training.ema.snapshots import Snapshots

NAMES = ("0.050", "0.100")


def make_averages(step):
  draw = np.random.default_rng(step).standard_normal
  leaf = lambda: jnp.asarray(draw(1000), jnp.float32)
  return {name: {"a": {"b": leaf()}} for name in (*NAMES, "500000")}


LIKE = jax.eval_shape(lambda: make_averages(0)["0.050"])


def write(folder, *steps, **options):
  writer = Snapshots(folder, every=2, names=NAMES, **options)
  for step in steps:
    writer.save(step, make_averages(step))
  writer.close()
  return folder / "snapshots"


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_was_saved_comes_back(dtype, tmp_path):
  write(tmp_path, 2, 4, dtype=dtype)
  assert snapshots.steps(tmp_path) == [2, 4]
  for step in (2, 4):
    for name in NAMES:
      read = snapshots.load(tmp_path, step, name, LIKE)["a"]["b"]
      saved = make_averages(step)[name]["a"]["b"]
      assert read.dtype == jnp.float32
      np.testing.assert_array_equal(read, saved.astype(dtype))
  folder = tmp_path / "snapshots/2"
  assert {x.name for x in folder.iterdir() if x.is_dir()} == set(NAMES)


def test_when_they_are_due(tmp_path):
  writer = Snapshots(tmp_path, every=3, names=NAMES)
  assert [step for step in range(10) if writer.due(step)] == [3, 6, 9]
  assert not any(map(Snapshots(tmp_path, names=NAMES).due, range(10)))
  writer.close()
  assert not list(tmp_path.iterdir())  # nothing is made before it is needed
  assert snapshots.steps(tmp_path) == []


def test_one_that_is_there_stays_and_one_before_it_is_made(tmp_path):
  """This happens when a run continues from before its last snapshots."""
  folder = write(tmp_path, 2, 6)
  before = contents(folder / "2")
  write(tmp_path, 2, 4, 6)
  assert contents(folder / "2") == before
  assert snapshots.steps(tmp_path) == [2, 4, 6]
  read = snapshots.load(tmp_path, 4, NAMES[0], LIKE)
  chex.assert_trees_all_equal(read, make_averages(4)[NAMES[0]])


def test_half_a_snapshot_is_ignored(tmp_path):
  folder = write(tmp_path, 2)
  partial = folder / "4.orbax-checkpoint-tmp"
  shutil.copytree(folder / "2", partial)
  assert snapshots.steps(tmp_path) == [2]
  assert partial.exists()  # reading removes nothing
  write(tmp_path, 4)
  assert snapshots.steps(tmp_path) == [2, 4] and not partial.exists()


def test_one_that_cannot_be_read_is_named(tmp_path):
  folder = write(tmp_path, 2)
  (folder / "2/0.050/manifest.ocdbt").write_bytes(b"")
  with pytest.raises(UserError) as info:
    snapshots.load(tmp_path, 2, "0.050", LIKE)
  text = str(info.value)
  assert str(folder / "2/0.050") in text and "\n" not in text
  snapshots.load(tmp_path, 2, "0.100", LIKE)


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "snapshots").write_text("mine")
  writer = Snapshots(tmp_path, every=2, names=NAMES)
  with pytest.raises(
    UserError, match="snapshot of step 2 in .* failed"
  ) as info:
    writer.save(2, make_averages(2))
  assert "\n" not in str(info.value)
  writer.close()
  assert (tmp_path / "snapshots").read_text() == "mine"


def test_full_disk(small_disk):
  disk = small_disk(1)
  folder = write(disk, 2)
  (disk / "ballast").write_bytes(bytes(990 * 1024 - used(disk)))
  with pytest.raises(UserError) as info:
    write(disk, 4)
  text = str(info.value)
  assert "\n" not in text and "make room and run the same command" in text
  assert f"snapshot of step 4 in {folder} failed (No space left" in text
  assert snapshots.steps(disk) == [2]
  (disk / "ballast").unlink()
  write(disk, 4)
  assert snapshots.steps(disk) == [2, 4]
  assert {x.name for x in folder.iterdir()} == {"2", "4"}


def used(folder):
  return shutil.disk_usage(folder).used


FLAGS = "--config.snapshot_every=3", "--config.total_steps=12"


@pytest.fixture(scope="module")
def run(train, make_config, tmp_path_factory):
  """Returns the workdir of an uninterrupted run with four snapshots."""
  folder = tmp_path_factory.mktemp("run")
  assert train(make_config("teacher", *FLAGS), folder)
  return folder


@pytest.fixture
def stored():
  """Returns `stored(folder)`, which reads all snapshots by (step, width)."""

  def read(folder):
    config = workdir.load_config(folder)
    like = workdir.param_shapes(config)
    return {
      (step, width): snapshots.load(folder, step, averaging.name(width), like)
      for step in snapshots.steps(folder)
      for width in averaging.relative_widths(config)
    }

  return read


def test_a_run_leaves_snapshots_of_its_widths(run, stored, state_at):
  kept, widths = stored(run), workdir.load_config(run).ema
  assert set(kept) == {(n, w) for n in (3, 6, 9, 12) for w in widths}
  saved = state_at(run, 6)
  for width in widths:
    path = f"ema['{averaging.name(width)}']['denoiser']['conv_in']['weight']"
    np.testing.assert_array_equal(
      kept[6, width]["denoiser"]["conv_in"]["weight"],
      saved[path].astype(np.float16),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  "at, lost, last",
  [(5, 3, 2), pytest.param(8, 6, 6, marks=pytest.mark.slow)],
)
def test_killed_and_continued(
  at, lost, last, run, train, train_until, make_config, stored, tmp_path
):
  """The continued run has all snapshots, to the bit.

  It crashes in step `at`, and loses the snapshot of step `lost` and all
  checkpoints after step `last`.
  """

  config = make_config("teacher", *FLAGS, "--config.total_steps=9")
  train_until(at, config, tmp_path)
  shutil.rmtree(tmp_path / f"snapshots/{lost}")
  for path in (tmp_path / "checkpoints").iterdir():
    if int(path.name) > last:
      shutil.rmtree(path)
  assert train(config, tmp_path)
  expected = {key: tree for key, tree in stored(run).items() if key[0] <= 9}
  chex.assert_trees_all_equal(stored(tmp_path), expected)


def test_a_checkpoint_waits_for_the_snapshots_before_it(
  train, make_config, tmp_path
):
  """A run that continues from the checkpoint would not make them again."""
  events = []
  note = lambda name: lambda self, *args: events.append(name)
  config = make_config("teacher", *FLAGS, "--config.total_steps=6")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Snapshots, "wait", note("wait"))
    patch.setattr(Snapshots, "save", note("snapshot"))
    patch.setattr(Checkpoints, "save", note("checkpoint"))
    assert train(config, tmp_path)
  steps_2_to_4 = "wait checkpoint wait snapshot wait checkpoint"
  step_6 = "wait checkpoint snapshot wait"  # its own snapshot may come later
  assert " ".join(events).startswith(f"{steps_2_to_4} {step_6}")


def test_load_reconstructs_any_width(run, stored, caplog):
  """The result is that computed from the files, with normalised weights."""
  config = workdir.load_config(run)
  caplog.set_level(logging.INFO)
  model, about = workdir.load(run, 0.07)
  assert about["ema"] == "0.070" and about["step"] == 12
  [line] = [x for x in caplog.messages if "reconstructing" in x]
  assert "width 0.070 at step 12 from 12 stored ones (steps 3 to 12)" in line

  kept = {key: tree for key, tree in stored(run).items() if key[0] < 12}
  like = workdir.param_shapes(config)
  for width in config.ema:  # in float32 from the checkpoint
    kept[12, width] = loading.load(run, config, width, like).params
  profiles = posthoc.Profile(
    [step for step, _ in kept],
    [averaging.power_exponent(width) for _, width in kept],
  )
  wanted = posthoc.Profile(12, averaging.power_exponent(0.07))
  coefficients = posthoc.fit(profiles, wanted)
  error = posthoc.fit_error(coefficients, profiles, wanted)
  assert f"misses {100 * error:.2g} %" in line and 0 < error < 0.1
  by_hand = jax.tree.map(
    lambda *leaves: sum(
      c * np.asarray(leaf, np.float64)
      for c, leaf in zip(coefficients, leaves, strict=True)
    ).astype(np.float32),
    *kept.values(),
  )
  chex.assert_trees_all_close(
    model.params, magnitude.normalize_weights(by_hand), rtol=1e-4, atol=1e-5
  )
  # Every filter has its norm, as after an update of the training.
  again = magnitude.normalize_weights(model.params)
  chex.assert_trees_all_close(model.params, again, rtol=1e-5, atol=1e-6)


def test_an_ema_that_is_kept_is_read_not_fitted(run, caplog):
  caplog.set_level(logging.INFO)
  for average in (0.0, 0.1, 0.05, 0.2):
    _, about = workdir.load(run, average)
    assert about["ema"] == averaging.name(average or 0.1)
  assert not [x for x in caplog.messages if "reconstructing" in x]


def test_a_snapshots_own_width_and_step_come_back_exactly(run, stored):
  config = workdir.load_config(run)
  like = workdir.param_shapes(config)
  made = loading.reconstruct(run, config, 0.05, like, step=6)
  assert made.step == 6 and made.fit_error == 0
  chex.assert_trees_all_equal(made.params, stored(run)[6, 0.05])


@pytest.mark.slow
def test_a_poor_fit_is_a_warning(run, caplog):
  workdir.load(run, 0.01)
  [record] = [x for x in caplog.records if "reconstructing" in x.message]
  assert record.levelno == logging.WARNING


@pytest.mark.parametrize("step", [2, 13])
def test_steps_without_a_stored_ema(step, run):
  config = workdir.load_config(run)
  like = workdir.param_shapes(config)
  with pytest.raises(UserError, match=f"has no EMAs of step {step}: its"):
    loading.reconstruct(run, config, 0.05, like, step)


def test_numbers_that_name_no_ema(run):
  with pytest.raises(UserError, match="0.3 names no EMA: "):
    workdir.load(run, 0.3)
  with pytest.raises(UserError, match="keeps no EMA of 700; it has"):
    workdir.load(run, 700.0)


@pytest.mark.slow
def test_a_teacher_of_any_width(run, make_config, tmp_path):
  """A reconstructed teacher, too, must stay the same for its student's run."""
  flags = f"--config.teacher={run}", "--config.teacher_ema=0.07"
  config = make_config("scd", *flags)
  teacher = initialization.load_teacher(
    resolve.resolve(config), tmp_path, begun=False
  )
  chosen = workdir.load(run, 0.07)[0].params
  chex.assert_trees_all_equal(teacher.params, chosen)
  noted = json.loads((tmp_path / "teacher.json").read_text())
  assert noted["ema"] == "0.070" and noted["step"] == 12
  assert (
    initialization.load_teacher(resolve.resolve(config), tmp_path, begun=True)
    is not None
  )
  config = make_config("scd", flags[0], "--config.teacher_ema=0.071")
  with pytest.raises(UserError, match="has changed since this run began"):
    initialization.load_teacher(resolve.resolve(config), tmp_path, begun=True)


@pytest.mark.slow
def test_a_workdir_of_emas(run, make_config, train, tmp_path):
  """It loads like any workdir, is no run, and appears whole or not at all."""
  config = workdir.load_config(run)
  like = workdir.param_shapes(config)
  params = loading.load(run, config, 0.05, like).params
  zeros = jax.tree.map(jnp.zeros_like, params)
  kept = {"0.050": jax.device_get(params), "500": zeros}
  out = tmp_path / "a/made"
  with config.unlocked():
    config.ema = (0.05, 500.0)
  path = workdir.write_averages(out, config, kept, 12, {"from": "here"})
  assert path == epath.Path(out)
  assert {p.name for p in out.parent.iterdir()} == {"made"}
  model, about = workdir.load(out)
  assert about["step"] == 12 and about["ema"] == "0.050"
  chex.assert_trees_all_equal(model.params, workdir.load(run, 0.05)[0].params)
  model, about = workdir.load(out, 500.0)
  assert about["ema"] == "500" and model.params["denoiser"]["out_gain"] == 0
  with pytest.raises(UserError, match="imported or reconstructed"):
    train(config, out)
  with pytest.raises(UserError, match="is not empty; choose another"):
    workdir.write_averages(out, config, kept, 12, {})
  with pytest.raises(UserError, match="keeps no EMA of 0.07; it has"):
    workdir.load(out, 0.07)

  with pytest.raises(ZeroDivisionError):
    workdir.write_averages(
      tmp_path / "b", config, kept, 12, {}, beside=lambda _: 1 / 0
    )
  assert {p.name for p in tmp_path.iterdir()} == {"a"}
