"""Writers of metrics, on disks and in a bucket; the progress report."""

import contextlib
import io
import json
import logging
import math
import re
import struct

import numpy as np
import pytest
from etils import epath
from fsspec.implementations import memory
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.compat.proto import event_pb2
from tensorboard.util import tensor_util

from scm_jax.errors import UserError
from scm_jax.training.monitoring import progress as progress_module
from scm_jax.training.monitoring import writers
from scm_jax.training.monitoring.progress import Progress


def offline(*args, **kwargs):
  raise OSError("offline")


def steps_in(path):
  return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_one_line_a_step_written_at_once(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writer = writers.JsonlWriter(path, 0)
  writer.write_scalars(3, {"loss": np.float32(0.5), "count": np.int32(2)})
  line = path.read_text()
  assert json.loads(line) == {"step": 3, "loss": 0.5, "count": 2}
  assert line.endswith("}\n") and list(json.loads(line))[0] == "step"


def test_nonfinite_numbers_become_null(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writer = writers.JsonlWriter(path, 0)
  writer.write_scalars(1, {"a": math.nan, "b": -math.inf, "c": 1e300})

  def reject(word):
    raise AssertionError(f"{word} is not JSON")

  line = json.loads(path.read_text(), parse_constant=reject)
  assert line == {"step": 1, "a": None, "b": None, "c": 1e300}


def test_steps_that_will_be_done_again_are_dropped(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writer = writers.JsonlWriter(path, 0)
  for step in (2, 4, 6):
    writer.write_scalars(step, {"loss": step})
  writer.close()
  again = writers.JsonlWriter(path, 4)
  assert steps_in(path) == [2, 4]
  again.write_scalars(6, {"loss": 0})
  assert steps_in(path) == [2, 4, 6]


@pytest.mark.parametrize(
  "torn",
  [
    *(b'{"step": 4, "lo', b'{"loss": 1}\n', b"[4]\n", b"4", b"\n"),
    *(b"\0\0\0", b"\xff\xfe"),
  ],
)
def test_lines_torn_by_a_kill_are_dropped(torn, tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 2, "loss": 1.0}\n' + torn)
  writers.JsonlWriter(path, 4).write_scalars(6, {"loss": 0})
  assert steps_in(path) == [2, 6]


def test_a_complete_line_without_its_end_is_kept(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 2, "loss": 1.0}')
  writers.JsonlWriter(path, 2).write_scalars(4, {"loss": 0})
  assert steps_in(path) == [2, 4]


def test_images_are_not_written_to_jsonl(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writer = writers.JsonlWriter(path, 0)
  writer.write_images(1, {"samples": np.zeros((1, 2, 2, 1), np.uint8)})
  writer.close()
  assert path.read_text() == ""


def test_full_disk_is_one_line(small_disk):
  """It is reported once: closing the file does not write again."""
  folder = small_disk(1)
  lines = writers.JsonlWriter(epath.Path(folder) / "metrics.jsonl", 0)
  writer = writers.create(epath.Path(folder), 0)
  with pytest.raises(UserError, match="/events.*: No space left") as error:
    with writer:
      picture = np.random.default_rng(0).integers(256, size=(1, 700, 700, 3))
      writer.write_images(1, {"noise": picture.astype(np.uint8)})
  assert "make room and run the same command again" in str(error.value)
  with pytest.raises(UserError, match="cannot write .*metrics.jsonl: No space"):
    with writers.MultiWriter([lines]):
      lines.write_scalars(1, {"loss": 0.0})


@pytest.mark.parametrize("error", [None, ValueError])
def test_all_is_written_however_the_block_is_left(error, bucket):
  with contextlib.ExitStack() as stack:
    if error:
      stack.enter_context(pytest.raises(error))
    with writers.create(bucket / "run", 0) as writer:
      writer.write_scalars(1, {"loss": 0.5})
      if error:
        raise error
  assert steps_in(bucket / "run/metrics.jsonl") == [1]
  assert steps_of(next((bucket / "run").glob("events*"))) == [1]


def test_an_error_is_not_replaced_by_that_of_closing(bucket, monkeypatch):
  # Nothing is uploaded before the file is closed, however long the test takes.
  monkeypatch.setattr(writers.time, "monotonic", lambda: 100.0)
  with pytest.raises(KeyboardInterrupt):
    with writers.create(bucket / "run", 0) as writer:
      writer.write_scalars(1, {"loss": 0.5})
      monkeypatch.setattr(memory.MemoryFileSystem, "_open", offline)
      raise KeyboardInterrupt
  with pytest.raises(UserError, match="cannot write gs://.*: offline"):
    with writer:  # without another error, that of closing is raised
      pass


def test_a_bucket_has_it_within_a_minute(bucket, monkeypatch):
  """A run goes on in a bucket as it does on a disk."""
  path = bucket / "metrics.jsonl"
  clock = [100.0]
  monkeypatch.setattr(writers.time, "monotonic", lambda: clock[0])
  writer = writers.JsonlWriter(path, 0)
  seen = []
  for step in range(1, 6):
    clock[0] += 25
    writer.write_scalars(step, {"loss": 0.0})
    seen.append(steps_in(path))
  assert seen == [[], [], [1, 2, 3], [1, 2, 3], [1, 2, 3]]
  writer.flush()
  assert steps_in(path) == [1, 2, 3, 4, 5]
  again = writers.JsonlWriter(path, 3)
  again.write_scalars(4, {"loss": 1.0})
  again.close()
  assert steps_in(path) == [1, 2, 3, 4]


def records(path):
  """Returns the events of a file, by TFRecord's framing without checksums."""
  data, found = path.read_bytes(), []
  while data:
    [length] = struct.unpack("<Q", data[:8])
    found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
    data = data[16 + length :]
  return found


def steps_of(path):
  """Returns the steps whose values an event file has."""
  return [e.step for e in records(path) if e.HasField("summary")]


def read_events(folder):
  """Returns TensorBoard's reader, which checks checksums, and all events."""
  accumulator = event_accumulator.EventAccumulator(str(folder))
  accumulator.Reload()
  tags = accumulator.Tags()["tensors"]
  return accumulator, {tag: accumulator.Tensors(tag) for tag in tags}


def test_tensorboard_reads_scalars_and_pictures(tmp_path):
  writer = writers.TensorBoardWriter(epath.Path(tmp_path))
  values = {"loss/t=0.10": np.float32(0.1), "big": 1e300, "none": math.nan}
  writer.write_scalars(3, values)
  pictures = np.random.default_rng(0).integers(
    256, size=(2, 5, 7, 3), dtype="u1"
  )
  writer.write_images(4, {"colour": pictures, "grey": pictures[..., :1]})
  accumulator, found = read_events(tmp_path)  # before any flush
  plugin = lambda tag: accumulator.SummaryMetadata(tag).plugin_data.plugin_name
  assert {tag: plugin(tag) for tag in found} == {
    **dict.fromkeys(values, "scalars"),
    **dict.fromkeys(("colour", "grey"), "images"),
  }
  for tag, value in values.items():
    [event] = found[tag]
    got = tensor_util.make_ndarray(event.tensor_proto)
    with np.errstate(over="ignore"):
      np.testing.assert_array_equal(got, np.float32(value), strict=True)
    assert event.step == 3
  for tag, channels in (("colour", 3), ("grey", 1)):
    [event] = found[tag]
    width, height, *images = event.tensor_proto.string_val
    assert (event.step, int(width), int(height)) == (4, 7, 5)
    read = [np.asarray(Image.open(io.BytesIO(data))) for data in images]
    read = np.stack(read).reshape(2, 5, 7, channels)
    np.testing.assert_array_equal(read, pictures[..., :channels])


def test_files_do_not_grow_without_end(tmp_path, monkeypatch):
  monkeypatch.setattr(writers, "MAX_BYTES", 200)
  writer = writers.TensorBoardWriter(epath.Path(tmp_path))
  for step in range(8):
    writer.write_scalars(step, {"a": step, "b": -step})
  writer.close()
  files = sorted(tmp_path.iterdir())
  assert len(files) > 2 and max(f.stat().st_size for f in files) < 400
  assert all("tfevents" in file.name for file in files)
  assert sum(map(steps_of, files), []) == list(range(8))
  _, found = read_events(tmp_path)
  assert [event.step for event in found["b"]] == list(range(8))


def test_a_log_has_plain_lines_with_an_eta(caplog):
  caplog.set_level(logging.INFO)
  progress = Progress(10, 100)
  progress.advance()
  rate = progress.report(20, 0.25)
  assert rate > 0
  [line] = caplog.messages
  assert re.fullmatch(
    r"step 20 of 100, loss 0.25, [\d.]+ steps/s, ETA 0:00", line
  )
  progress.close()


def test_what_a_pause_took_does_not_count(monkeypatch):
  """Neither do the steps before it: five in 10 s are 0.5 steps a second."""
  clock = iter([0.0, 60.0, 70.0])
  monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
  progress = Progress(10, 100)
  for step in range(11, 21):
    progress.advance()
    if step == 15:
      progress.pause()
  assert progress.report(20, 0.25) == 0.5


def test_a_terminal_has_a_bar(monkeypatch, capsys, caplog):
  caplog.set_level(logging.INFO)
  monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
  progress = Progress(10, 20)
  for _ in range(10):
    progress.advance()
  progress.report(20, 0.25)
  progress.close()
  shown = capsys.readouterr().err
  assert "20/20" in shown and "loss 0.25" in shown
  assert not caplog.messages
