"""Faults of a run: nothing saved is lost, and one line reports the fault."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import time

import jax.numpy as jnp
import numpy as np
import pytest

from scm_jax.codec import PixelCodec
from scm_jax.errors import UserError

STEPS = 60  # of the long reference run
PATIENCE = 900  # seconds to wait for a process before a test fails


def wait_for(process: subprocess.Popen, condition) -> None:
  """Waits until the condition holds; fails if the process ends before."""
  end = time.monotonic() + PATIENCE
  while not condition():
    assert process.poll() is None, process.log.read_text()[-2000:]
    assert time.monotonic() < end, process.log.read_text()[-2000:]
    time.sleep(0.001)


def freeze_within_a_save(process: subprocess.Popen, folder) -> str:
  """Stops a process while it writes a checkpoint, whose name it returns."""
  found = lambda: list(folder.glob("checkpoints/*.orbax-checkpoint-tmp"))
  while True:
    wait_for(process, found)
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    if partial := found():
      return partial[0].name
    process.send_signal(signal.SIGCONT)  # it was faster


def kill(process: subprocess.Popen) -> None:
  process.kill()
  assert process.wait() == -signal.SIGKILL


def lines_of(folder) -> list[str]:
  path = folder / "metrics.jsonl"
  return path.read_text().splitlines() if path.exists() else []


def last_step(folder) -> int:
  return json.loads(lines_of(folder)[-1])["step"] if lines_of(folder) else 0


@pytest.mark.slow
def test_killed_at_any_moment_ends_as_if_it_never_was(
  long_reference,
  start,
  flags,
  state_at,
  assert_equal_states,
  steps_kept,
  read_metrics,
  tmp_path,
):
  """Runs one command five times: killed, killed, stopped, killed, done."""
  folder = tmp_path / "run"
  command = (
    "train",
    f"--workdir={folder}",
    *flags("teacher", f"--config.total_steps={STEPS}"),
  )
  # Killed before its first step.
  process = start(*command)
  wait_for(process, (folder / "config.json").exists)
  kill(process)
  assert not lines_of(folder)

  # Killed with a checkpoint half written.
  process = start(*command)
  wait_for(process, lambda: last_step(folder) >= 6)
  partial = freeze_within_a_save(process, folder)
  kill(process)
  assert (folder / "checkpoints" / partial).exists()
  saved = int(partial.split(".")[0])
  assert max(x for x in _complete(folder)) < saved < STEPS

  # Stopped by SIGTERM: it saves, says so and exits with 0.
  process = start(*command)
  wait_for(process, lambda: last_step(folder) >= saved + 4)
  process.send_signal(signal.SIGTERM)
  assert process.wait(PATIENCE) == 0
  log = process.log.read_text().splitlines()
  assert f"continuing from step {max(_complete(folder, saved - 1))}" in log[1]
  [stopped] = re.findall(
    r"stopped by a signal; .* saved at step (\d+)", log[-1]
  )
  stopped = int(stopped)
  assert steps_kept(folder)[-1] == stopped  # nothing half written is left
  assert last_step(folder) == stopped < STEPS

  # Killed between two saves, or wherever it is by now.
  process = start(*command)
  wait_for(process, lambda: last_step(folder) > stopped + 2)
  kill(process)

  process = start(*command)
  assert process.wait(PATIENCE) == 0
  assert "Traceback" not in process.log.read_text()
  assert_equal_states(state_at(folder, STEPS), state_at(long_reference, STEPS))
  assert_equal_states(state_at(folder, saved), state_at(long_reference, saved))

  # Each step is logged once and in order. The stop cut a window of steps in
  # two, unless the window ended there anyway.
  mine = {line["step"]: line for line in read_metrics(folder)}
  steps = [line["step"] for line in read_metrics(folder)]
  assert steps == sorted({*range(2, STEPS + 1, 2), stopped})
  for line in read_metrics(long_reference):
    if stopped % 2 == 0 or line["step"] != stopped + 1:
      assert mine[line["step"]] == line


def _complete(folder, before=STEPS) -> list[int]:
  names = [path.name for path in (folder / "checkpoints").iterdir()]
  return [int(x) for x in names if x.isdigit() and int(x) <= before]


@pytest.mark.slow
def test_killed_student_ends_as_if_it_never_was(
  reference,
  reference_student,
  start,
  flags,
  state_at,
  assert_equal_states,
  read_metrics,
  train,
  make_config,
  tmp_path,
):
  folder = tmp_path / "run"
  student = ("scd", f"--config.teacher={reference}")
  process = start("train", f"--workdir={folder}", *flags(*student))
  wait_for(process, lambda: last_step(folder) >= 4)
  kill(process)
  assert train(make_config(*student), folder)
  assert_equal_states(state_at(folder, 8), state_at(reference_student, 8))
  assert read_metrics(folder) == read_metrics(reference_student)


@pytest.mark.parametrize(
  "damage", ["truncated", pytest.param("missing", marks=pytest.mark.slow)]
)
def test_damaged_checkpoint_costs_only_time(
  damage,
  reference,
  copy_at,
  command,
  flags,
  state_at,
  assert_equal_states,
  read_metrics,
  caplog,
):
  """The same command repeats the lost steps, even those of a complete run."""
  caplog.set_level(logging.INFO)
  folder = copy_at(8)
  values = max(
    (folder / "checkpoints/8/train/ocdbt.process_0").rglob("*"),
    key=lambda path: path.stat().st_size,
  )
  if damage == "truncated":
    values.write_bytes(values.read_bytes()[:100])
  else:
    values.unlink()
  code, out, err = command("train", f"--workdir={folder}", *flags())
  assert (code, err) == (0, "")
  assert f"checkpoint {folder}/checkpoints/8 cannot be read" in caplog.text
  assert "continuing from step 6" in caplog.text
  assert_equal_states(state_at(folder, 8), state_at(reference, 8))
  assert read_metrics(folder) == read_metrics(reference)[:4]


def test_no_readable_checkpoint_is_one_line(
  copy_at, refused, flags, steps_kept
):
  folder = copy_at(4)
  for step in (2, 4):
    (folder / f"checkpoints/{step}/train/manifest.ocdbt").write_bytes(b"x")
  before = lines_of(folder)
  said = refused(1, "train", f"--workdir={folder}", *flags())
  assert f"none of the checkpoints in {folder}/checkpoints can" in said
  assert steps_kept(folder) == [2, 4] and lines_of(folder) == before


@pytest.mark.slow
def test_full_disk_within_a_save(
  small_disk,
  reference,
  copy_at,
  command,
  refused,
  flags,
  state_at,
  assert_equal_states,
  steps_kept,
):
  disk = small_disk(4)
  folder = copy_at(0, disk / "run")
  shutil.copytree(reference / "checkpoints/4", folder / "checkpoints/4")
  # Leave room for half a checkpoint.
  ballast = disk / "ballast"
  checkpoint = (reference / "checkpoints/4").rglob("*")
  size = sum(path.stat().st_size for path in checkpoint if path.is_file())
  free = shutil.disk_usage(disk).free
  ballast.write_bytes(bytes(free - size // 2))
  # Keep one checkpoint only: it must outlive the save that fails.
  run = ["train", f"--workdir={folder}", *flags()]
  run = [word for word in run if "keep_checkpoints" not in word]
  run += ["--config.keep_checkpoints=1"]
  said = refused(1, *run)
  assert "saving the checkpoint of step 6 in" in said
  assert "(No space left on device)" in said
  assert f"the last good checkpoint is {folder}/checkpoints/4;" in said
  assert steps_kept(folder) == [4]
  assert_equal_states(state_at(folder, 4), state_at(reference, 4))

  ballast.unlink()
  code, _, err = command(*run)
  assert (code, err) == (0, "")
  assert steps_kept(folder) == [8]
  assert not list(folder.glob("checkpoints/*.orbax-checkpoint-tmp"))
  assert_equal_states(state_at(folder, 8), state_at(reference, 8))


def test_read_only_disk(small_disk, refused, flags, copy_at):
  """A new run and one that is continued both end in one line."""
  disk = small_disk(4)
  copy_at(4, disk / "run")
  remount = ["mount", "-o", "remount,ro", str(disk)]
  subprocess.run(remount, check=True)
  for folder in (disk / "new", disk / "run"):
    said = refused(1, "train", f"--workdir={folder}", *flags())
    assert "Read-only file system" in said and str(folder) in said


LIMITED = """
import resource, sys
from scm_jax.cli import main
limit = (40_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_file_size_limit_within_a_save(
  reference,
  copy_at,
  start,
  flags,
  train,
  make_config,
  state_at,
  assert_equal_states,
  steps_kept,
  monkeypatch,
):
  """A limit on the size of files, like a quota, ends a run in one line."""
  folder = copy_at(4)
  argv = ["train", f"--workdir={folder}", *flags()]
  process = start(*argv, prefix=("-c", LIMITED))
  assert process.wait(PATIENCE) == 1
  *log, said = process.log.read_text().splitlines()
  assert said.startswith("scm-jax train: ")
  assert "checkpoint of step 6 in" in said and "(File too large)" in said
  assert f"the last good checkpoint is {folder}/checkpoints/4;" in said
  timed = re.compile(
    r"\d\d:\d\d:\d\d (running on .*|continuing from step 4|step \d of 8, .*)"
  )
  assert log and all(timed.fullmatch(line) for line in log), log
  assert steps_kept(folder) == [2, 4]

  assert train(make_config("teacher"), folder)
  assert_equal_states(state_at(folder, 8), state_at(reference, 8))


MARK = 255  # a value that the corner of a digit's image never has


def mark(batch, count):
  """Returns the batch with the mark in `count` of its images."""
  image = batch["image"].copy()
  assert not (image[:, 0, 0] == MARK).any()
  image[:count, 0, 0] = MARK
  return {**batch, "image": image}


@pytest.mark.slow
def test_nan_in_a_batch_is_counted_then_stops_a_run_when_it_is_all(
  train,
  make_config,
  state_at,
  steps_kept,
  read_metrics,
  reference,
  monkeypatch,
  tmp_path,
):
  encode = PixelCodec.encode

  def nan_where_marked(codec, images, key):
    marked = images[:, :1, :1] == MARK
    return jnp.where(marked, jnp.nan, encode(codec, images, key))

  def on_batch(step, batch):
    return mark(batch, 1 if step <= 4 else len(batch["image"]))

  monkeypatch.setattr(PixelCodec, "encode", nan_where_marked)
  with pytest.raises(UserError) as info:
    train(make_config("teacher"), tmp_path, on_batch)
  said = str(info.value)
  assert "diverged by step 6" in said and "8 of 8 samples not finite" in said
  assert f"the last good checkpoint is {tmp_path}/checkpoints/4" in said
  assert "\n" not in said

  lines = read_metrics(tmp_path)
  assert [line["step"] for line in lines] == [2, 4]
  for line in lines:
    assert line["nonfinite_samples"] == 2  # one in each of two steps
    assert line["nonfinite_gradients"] == 0
    assert all(np.isfinite(value) for value in line.values())
  assert steps_kept(tmp_path) == [2, 4]
  mine, theirs = state_at(tmp_path, 4), state_at(reference, 4)
  assert all(np.isfinite(array).all() for array in mine.values())
  # The other images have trained it, to nearly the same parameters.
  for name, array in mine.items():
    if "params" in name and "weighting" not in name:
      np.testing.assert_allclose(array, theirs[name], atol=5e-3)
  gain = "train['params']['denoiser']['out_gain']"
  assert mine[gain] != 0 and mine[gain] != theirs[gain]


def test_divergence_ends_with_the_last_good_checkpoint(
  reference, copy_at, refused, flags, read_metrics, steps_kept, state_at
):
  """The output grows beyond the limit, which is very low here."""
  rms = {line["step"]: line["output_rms"] for line in read_metrics(reference)}
  limit = (rms[6] + rms[8]) / 2
  assert max(rms[2], rms[4], rms[6]) < limit < rms[8]
  folder = copy_at(4)
  limited = f"--config.divergence_limit={limit}"
  said = refused(1, "train", f"--workdir={folder}", *flags(), limited)
  assert "diverged by step 8: loss " in said and "another --workdir" in said
  assert f"the last good checkpoint is {folder}/checkpoints/6;" in said
  assert steps_kept(folder) == [2, 4, 6]
  assert all(np.isfinite(x).all() for x in state_at(folder, 6).values())
  assert [line["step"] for line in read_metrics(folder)] == [2, 4, 6]
