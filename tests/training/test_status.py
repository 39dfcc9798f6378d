"""Where a run stands, told from the files that its training writes."""

import json

import pytest
from etils import epath

from scm_jax.errors import UserError
from scm_jax.training.monitoring import status, writers

TOTAL = 40


@pytest.fixture
def run(tmp_path, monkeypatch):
  """A function `run(start, began, *lines)`: one process that wrote lines.

  A line is the time at which it was written, in seconds, its step, and the
  steps per second since the line before.
  """
  clock = [0.0]
  monkeypatch.setattr(writers.time, "time", lambda: clock[0])
  config = {"run": "teacher", "total_steps": TOTAL}
  (tmp_path / "config.json").write_text(json.dumps(config))

  def write(start, began, *lines, **more):
    clock[0] = began
    with writers.create(epath.Path(tmp_path), start) as writer:
      for clock[0], step, rate in lines:
        found = {"loss": 1 / step, "steps_per_second": rate} | more
        writer.write_scalars(step, found)

  return write


def test_every_second_of_a_run_has_one_place(run, tmp_path):
  # 20 steps of a second each, of which a kill undid the last eight.
  run(0, 100, (140, 10, 1.0), (155, 20, 1.0))
  # A process that was killed while it compiled, and one that ended the run.
  run(12, 200)
  run(12, 300, (340, 20, 0.8), (365, 40, 1.0))
  (tmp_path / "checkpoints" / "40").mkdir(parents=True)
  found = status.status(str(tmp_path), now=1000)
  assert found["state"] == "complete" and not found["warnings"][1:]
  assert found["step"] == found["checkpoint"] == 40
  assert found["seconds"] == 265 and found["processes"] == 3
  assert found["seconds_of"] == pytest.approx(
    {
      "steps": 12 + 10 + 20,
      "repeated": 8,
      "starting": (40 - 10) + (40 - 10),
      "other": (15 - 10) + (25 - 20),
      "stopped": 45 + 100,
    }
  )
  assert sum(found["seconds_of"].values()) == pytest.approx(found["seconds"])
  assert found["goodput"] == pytest.approx(42 / 265)


def test_what_several_kills_undid_counts_once(run, tmp_path):
  run(0, 0, (10, 10, 1.0))
  run(8, 10, (20, 18, 1.0))
  run(4, 20, (30, 14, 1.0))
  found = status.status(str(tmp_path), now=30)
  assert found["seconds_of"]["steps"] == pytest.approx(4 + 10)
  assert found["seconds_of"]["repeated"] == pytest.approx(6 + 10)
  [warning] = found["warnings"]
  assert "53%" in warning and "checkpoint_every" in warning


def test_steps_without_a_rate_belong_to_the_next_ones(run, tmp_path):
  """The first step is compiled; a line of it alone has no rate."""
  run(0, 0, (50, 1, float("nan")), (60, 11, 1.0))
  found = status.status(str(tmp_path), now=60)
  assert found["seconds_of"]["steps"] == pytest.approx(11)
  assert found["seconds_of"]["starting"] == pytest.approx(49)


def test_a_run_is_silent_after_some_of_its_own_intervals(run, tmp_path):
  run(0, 0, (400, 10, 0.1), (500, 20, 0.1))
  state = lambda now: status.status(str(tmp_path), now)["state"]
  assert state(500) == state(500 + 3 * 400) == "running"
  assert state(501 + 3 * 400) == "silent"
  found = status.status(str(tmp_path), now=5000)
  assert found["seconds_silent"] == 4500
  assert found["seconds_left"] == pytest.approx(200)
  assert "goes on from step 0" in found["warnings"][0]


def test_a_run_may_compile_for_longer(run, tmp_path):
  run(0, 0)
  found = status.status(str(tmp_path), now=1500)
  assert found["state"] == "running" and found["step"] == 0
  assert found["loss"] is found["seconds_left"] is found["goodput"] is None
  assert status.status(str(tmp_path), now=9999)["state"] == "silent"


def test_its_health(run, tmp_path):
  bad = {"loss": float("nan"), "nonfinite_samples": 2.0}
  run(0, 0, (10, 10, 1.0), nonfinite_gradients=3.0, nonfinite_samples=0.0)
  run(10, 10, (20, 20, 1.0), nonfinite_gradients=0.0, **bad)
  (tmp_path / "checkpoints_damaged" / "10").mkdir(parents=True)
  found = status.status(str(tmp_path), now=20)
  assert found["nonfinite_samples"] == 2 and found["nonfinite_gradients"] == 3
  assert found["loss"] is None and found["damaged_checkpoints"] == 1
  assert len(found["warnings"]) == 4


def test_long_runs_have_several_event_files(run, tmp_path, monkeypatch):
  monkeypatch.setattr(writers, "MAX_BYTES", 500)
  run(0, 0, *((10.0 * n, 10 * n, 1.0) for n in range(1, 21)))
  assert len(list(tmp_path.glob("events*"))) > 3
  found = status.status(str(tmp_path), now=200)
  assert found["processes"] == 1 and found["goodput"] == pytest.approx(1.0)


def test_files_that_are_just_being_written(run, tmp_path):
  run(0, 0, (10, 10, 1.0), (20, 20, 1.0))
  [events] = tmp_path.glob("events*")
  metrics = tmp_path / "metrics.jsonl"
  whole, lines = events.read_bytes(), metrics.read_bytes()
  for file, content in ((events, whole), (metrics, lines)):
    for length in range(len(content)):
      file.write_bytes(content[:length])
      found = status.status(str(tmp_path), now=20)
      assert found["step"] in (0, 10, 20)
    file.write_bytes(content)


def test_words_in_place_of_numbers_are_not_read(run, tmp_path):
  run(0, 0, (10, 10, 1.0))
  before = status.status(str(tmp_path), now=10)
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": "20", "loss": "x", "steps_per_second": "y"}\n')
    file.write('{"step": 9, "loss": NaN, "steps_per_second": NaN}\n')
  assert status.status(str(tmp_path), now=10) == before


def test_zeros_that_a_crash_left(run, tmp_path):
  run(0, 0, (10, 10, 1.0))
  [events] = tmp_path.glob("events*")
  before = status.status(str(tmp_path), now=10)
  with events.open("ab") as file:
    file.write(bytes(4096))
  assert status.status(str(tmp_path), now=10) == before
  # A clock behind that of the training's machine.
  assert status.status(str(tmp_path), now=5)["seconds_silent"] == 0


def test_a_run_in_a_bucket(bucket):
  """It shows as soon as it begins, and what is saved once it is whole."""
  (bucket / "config.json").write_text('{"run": "scd", "total_steps": 40}')
  writer = writers.create(bucket, 0)
  found = status.status(str(bucket))
  assert found["state"] == "running" and found["processes"] == 1
  saved = bucket / "checkpoints" / "40"
  saved.mkdir(parents=True)
  (saved / "_METADATA").write_text("{}")
  assert status.status(str(bucket))["checkpoint"] is None
  (saved / "commit_success.txt").write_text("")
  found = status.status(str(bucket))
  assert found["checkpoint"] == 40 and found["state"] == "complete"
  (bucket / "owed.json").write_text('{"step": 40}')  # its samples failed
  assert status.status(str(bucket))["state"] == "running"
  writer.__exit__(None)


def test_what_is_no_run(tmp_path):
  with pytest.raises(UserError, match="it has no config.json"):
    status.status(str(tmp_path / "none"))
  config = tmp_path / "config.json"
  for text in ('{"run": "a", "tot', '{"run": "a", "total_steps": null}'):
    config.write_text(text)
    with pytest.raises(UserError, match="cannot use .*config.json"):
      status.status(str(tmp_path))
  config.write_text('{"run": "teacher", "total_steps": 3}')
  (tmp_path / "origin.json").write_text("{}")
  with pytest.raises(UserError, match="weights from elsewhere"):
    status.status(str(tmp_path))
