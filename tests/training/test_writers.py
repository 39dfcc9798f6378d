"""Where metrics go."""

import json
import logging
import math
import re

import numpy as np
import pytest

from scm_jax.errors import UserError
from scm_jax.training import writers


def steps_in(path):
  return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_one_line_a_step_written_at_once(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writer = writers.JsonlWriter(path, 0)
  writer.write_scalars(3, {"loss": np.float32(0.5), "count": np.int32(2)})
  line = path.read_text()
  assert json.loads(line) == {"step": 3, "loss": 0.5, "count": 2}
  assert line.endswith("}\n") and list(json.loads(line))[0] == "step"


def test_what_json_has_not_becomes_null(tmp_path):
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
  "torn", ['{"step": 4, "lo', '{"loss": 1}\n', "[4]\n", "4", "\n", "\0\0\0"]
)
def test_lines_torn_by_a_kill_are_dropped(torn, tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 2, "loss": 1.0}\n' + torn)
  writers.JsonlWriter(path, 4).write_scalars(6, {"loss": 0})
  assert steps_in(path) == [2, 6]


def test_a_complete_line_without_its_end_is_kept(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 2, "loss": 1.0}')
  writers.JsonlWriter(path, 2).write_scalars(4, {"loss": 0})
  assert steps_in(path) == [2, 4]


def test_only_scalars_have_a_place(tmp_path):
  path = tmp_path / "metrics.jsonl"
  writer = writers.JsonlWriter(path, 0)
  writer.write_images(1, {"samples": np.zeros((1, 2, 2, 1))})
  writer.write_texts(1, {"note": "x"})
  writer.write_histograms(1, {"h": np.zeros(3)})
  writer.flush()
  writer.close()
  assert path.read_text() == ""


def test_full_disk_is_one_line():
  """/dev/full accepts to be opened and refuses every write."""
  writer = writers.JsonlWriter.__new__(writers.JsonlWriter)
  writer._path, writer._file = "/dev/full", open("/dev/full", "a")
  with pytest.raises(UserError, match="cannot write /dev/full: No space left"):
    writer.write_scalars(1, {"loss": 0.0})
  with pytest.raises(OSError):
    writer._file.close()


def test_a_log_has_plain_lines_with_an_eta(caplog):
  caplog.set_level(logging.INFO)
  progress = writers.Progress(10, 100)
  progress.advance()
  rate = progress.report(20, 0.25)
  assert rate > 0
  [line] = caplog.messages
  assert re.fullmatch(
    r"step 20 of 100, loss 0.25, [\d.]+ steps/s, ETA 0:00", line
  )
  progress.close()


def test_a_terminal_has_a_bar(monkeypatch, capsys, caplog):
  caplog.set_level(logging.INFO)
  monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
  progress = writers.Progress(10, 20)
  for _ in range(10):
    progress.advance()
  progress.report(20, 0.25)
  progress.close()
  shown = capsys.readouterr().err
  assert "20/20" in shown and "loss 0.25" in shown
  assert not caplog.messages
