"""The profiler writes traces of some steps to the workdir."""

import logging

import jax.numpy as jnp
import pytest

from scm_jax.training.monitoring import profiler


def traces(folder):
  return sorted(folder.glob("plugins/profile/*/*.xplane.pb"))


def test_a_trace_is_written_some_steps_after_the_start(tmp_path):
  with profiler.Profiler(tmp_path, first=110, seconds=0) as trace:
    for step in range(101, 115):
      trace(step)
      jnp.sin(jnp.ones(3)).block_until_ready()
    assert not traces(tmp_path)
    trace(115)
    assert len(traces(tmp_path)) == 1
    for step in range(116, 130):
      trace(step)
  assert len(traces(tmp_path)) == 1


def test_a_trace_is_written_when_the_run_fails(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    with profiler.Profiler(tmp_path, first=1) as trace:
      trace(1)
      trace(2)
      raise KeyboardInterrupt
  assert traces(tmp_path)


def test_a_trace_an_hour(monkeypatch):
  clock, calls = [0.0], []
  monkeypatch.setattr(profiler.time, "monotonic", lambda: clock[0])
  traced = profiler.jax.profiler
  start = lambda folder: calls.append(("start", folder, step))
  monkeypatch.setattr(traced, "start_trace", start)
  monkeypatch.setattr(traced, "stop_trace", lambda: calls.append(step))
  trace = profiler.Profiler("folder", first=10)
  for step in range(1, 8000):
    clock[0] += 1.0  # a second a step: five steps are longer than 3 s
    trace(step)
  starts = [("start", "folder", step) for step in (10, 3610, 7210)]
  assert calls[::2] == starts and calls[1::2] == [15, 3615, 7215]
  calls.clear()
  trace = profiler.Profiler("folder", first=10)
  for step in range(1, 1000):
    clock[0] += 0.01  # 3 s are longer than five steps
    trace(step)
  assert calls == [("start", "folder", 10), pytest.approx(310, abs=1)]


def test_a_run_goes_on_without_its_trace(tmp_path, monkeypatch, caplog):
  def fail(*args):
    raise RuntimeError("Only one profile may be run at a time.")

  monkeypatch.setattr(profiler.jax.profiler, "start_trace", fail)
  stopped = []
  monkeypatch.setattr(
    profiler.jax.profiler, "stop_trace", lambda: stopped.append(1)
  )
  with caplog.at_level(logging.WARNING):
    with profiler.Profiler(tmp_path, first=1) as trace:
      trace(1)
      trace(2)
  assert caplog.messages == [
    "cannot trace step 1: Only one profile may be run at a time."
  ]
  assert not stopped
