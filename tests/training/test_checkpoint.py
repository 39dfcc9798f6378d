"""Checkpoints: what is kept, what a damaged one costs, what reading changes."""

import json
import pathlib
import shutil
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.errors import UserError
from scm_jax.training.checkpoints.storage import Checkpoints
from scm_jax.training.step import TrainState


def make_state(step: int, size: int = 1000) -> TrainState:
  """Numbers that depend on the step; large enough not to be stored inline."""
  draw = np.random.default_rng(step).standard_normal
  leaf = lambda: jnp.asarray(draw(size), jnp.float32)
  return TrainState(
    step=jnp.int32(step),
    params={"denoiser": {"weight": leaf()}, "weighting": {"bias": leaf()}},
    opt_state=({"count": jnp.int32(step), "mu": leaf()}, ()),
    ema={"0.100": {"weight": leaf()}, "0.050": {"weight": leaf()}},
  )


LIKE = jax.eval_shape(lambda: make_state(0))


def save(folder: pathlib.Path, *steps: int, **options) -> pathlib.Path:
  checkpoints = Checkpoints(folder, **{"keep": 100, **options})
  for step in steps:
    checkpoints.save(make_state(step))
  checkpoints.wait()
  checkpoints.close()
  return folder / "checkpoints"


def restore(folder: pathlib.Path) -> TrainState | None:
  checkpoints = Checkpoints(folder)
  try:
    return checkpoints.restore(LIKE)
  finally:
    checkpoints.close()


def names(folder: pathlib.Path) -> set[str]:
  return {path.name for path in folder.iterdir()}


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
  """Everything in a folder; b"" for folders."""
  return {
    str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
    for path in folder.rglob("*")
  }


def test_restores_the_newest(tmp_path):
  save(tmp_path, 1, 2, 10)
  state = restore(tmp_path)
  chex.assert_trees_all_equal(state, make_state(10))
  assert isinstance(state, TrainState)
  assert state.step.dtype == jnp.int32 and int(state.step) == 10


def test_nothing_saved_restores_nothing(tmp_path):
  assert restore(tmp_path) is None


@pytest.mark.parametrize(
  "keep, keep_every, kept",
  [
    (1, 0, {"6"}),
    (2, 0, {"5", "6"}),
    (1, 2, {"2", "4", "6"}),
    (2, 3, {"3", "5", "6"}),
  ],
)
def test_keeps_the_last_and_every_so_many(keep, keep_every, kept, tmp_path):
  folder = save(tmp_path, *range(1, 7), keep=keep, keep_every=keep_every)
  assert names(folder) == kept


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
  """The next step writes into the same memory before the save is done."""
  update = jax.jit(
    lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0
  )
  state = make_state(1, size=2_000_000)
  expected = jax.tree.map(np.array, state)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(state)
  for _ in range(3):
    state = update(state)
  jax.block_until_ready(state)
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
  checkpoints.wait()
  restored = checkpoints.restore(like)
  checkpoints.close()
  chex.assert_trees_all_equal(restored, expected)


def halve(path: pathlib.Path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest(folder: pathlib.Path) -> pathlib.Path:
  files = [path for path in folder.rglob("*") if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


# What may happen to a checkpoint: copied in part, a disk that lost blocks.
DAMAGES = {
  "values truncated": lambda c: halve(largest(c / "train/ocdbt.process_0")),
  "values empty": lambda c: largest(c / "train").write_bytes(b""),
  "values missing": lambda c: shutil.rmtree(c / "train/ocdbt.process_0"),
  "averages truncated": lambda c: halve(largest(c / "ema/ocdbt.process_0")),
  "index truncated": lambda c: halve(c / "train/manifest.ocdbt"),
  "index missing": lambda c: (c / "ema/manifest.ocdbt").unlink(),
  "metadata truncated": lambda c: halve(c / "train/_METADATA"),
  "item missing": lambda c: shutil.rmtree(c / "train"),
  "all empty": lambda c: [
    path.write_bytes(b"") for path in c.rglob("*") if path.is_file()
  ],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_falls_back_to_the_one_before_and_says_so(damage, tmp_path, caplog):
  folder = save(tmp_path, 1, 2)
  damage(folder / "2")
  broken = snapshot(folder / "2")
  chex.assert_trees_all_equal(restore(tmp_path), make_state(1))
  [said] = [x for x in caplog.messages if "cannot be read" in x]
  assert str(folder / "2") in said and "\n" not in said
  # It is set aside, not lost; its step can be saved anew.
  assert names(folder) == {"1"}
  assert snapshot(tmp_path / "checkpoints_damaged/2") == broken
  assert "checkpoints_damaged/2" in caplog.text
  save(tmp_path, 2)
  caplog.clear()
  chex.assert_trees_all_equal(restore(tmp_path), make_state(2))
  assert not caplog.messages


def test_two_damaged_and_then_again(tmp_path):
  folder = save(tmp_path, 1, 2, 3)
  for step in ("2", "3"):
    halve(folder / step / "train/manifest.ocdbt")
  chex.assert_trees_all_equal(restore(tmp_path), make_state(1))
  assert names(tmp_path / "checkpoints_damaged") == {"2", "3"}
  save(tmp_path, 2)
  halve(folder / "2/ema/manifest.ocdbt")
  chex.assert_trees_all_equal(restore(tmp_path), make_state(1))
  assert names(tmp_path / "checkpoints_damaged") == {"2", "3"}


def test_a_folder_that_is_no_checkpoint_is_passed_over(tmp_path):
  folder = save(tmp_path, 1)
  (folder / "2").mkdir()
  (folder / "notes").mkdir()
  chex.assert_trees_all_equal(restore(tmp_path), make_state(1))


def test_none_readable_is_one_line_and_all_stay(tmp_path):
  folder = save(tmp_path, 1, 2)
  for step in ("1", "2"):
    halve(folder / step / "train/manifest.ocdbt")
  before = snapshot(folder)
  with pytest.raises(UserError, match=r"none of the .* \(steps 2, 1\)") as info:
    restore(tmp_path)
  assert str(folder) in str(info.value) and "\n" not in str(info.value)
  assert snapshot(folder) == before


def test_another_shape_is_not_taken(tmp_path):
  save(tmp_path, 1)
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(UserError, match="none of the checkpoints"):
    checkpoints.restore(jax.eval_shape(lambda: make_state(0, size=999)))
  checkpoints.close()


def test_reading_changes_nothing(tmp_path):
  """Not even what a training is writing at this moment."""
  folder = save(tmp_path, 1, 2, 3)
  partial = folder / "4.orbax-checkpoint-tmp"
  shutil.copytree(folder / "3", partial)
  (partial / "train/manifest.ocdbt").unlink()
  halve(folder / "3/ema/manifest.ocdbt")
  before = snapshot(tmp_path)
  checkpoints = Checkpoints(tmp_path, reading=True)
  averages, step = checkpoints.restore_ema(LIKE.ema)
  checkpoints.close()
  assert step == 2
  chex.assert_trees_all_equal(averages, make_state(2).ema)
  assert snapshot(tmp_path) == before


def test_reading_needs_the_averages_alone(tmp_path):
  folder = save(tmp_path, 1)
  shutil.rmtree(folder / "1/train")
  checkpoints = Checkpoints(tmp_path, reading=True)
  averages, _ = checkpoints.restore_ema(LIKE.ema)
  chex.assert_trees_all_equal(averages, make_state(1).ema)


def test_what_a_killed_save_left_is_removed(tmp_path):
  folder = save(tmp_path, 1)
  shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
  chex.assert_trees_all_equal(restore(tmp_path), make_state(1))
  for _ in range(100):  # Orbax removes it in the background
    if names(folder) == {"1"}:
      break
    time.sleep(0.1)
  assert names(folder) == {"1"}


def test_restores_on_devices_other_than_those_that_saved(tmp_path):
  """A checkpoint from an accelerator, evaluated here."""
  folder = save(tmp_path, 1)
  for path in folder.rglob("_sharding"):
    places = json.loads(path.read_text())
    assert places
    elsewhere = '{"sharding_type": "SingleDeviceSharding", "device_str": "x:7"}'
    path.write_text(json.dumps(dict.fromkeys(places, elsewhere)))
  state = restore(tmp_path)
  chex.assert_trees_all_equal(state, make_state(1))
  assert {x.device for x in jax.tree.leaves(state)} == {jax.devices()[0]}
