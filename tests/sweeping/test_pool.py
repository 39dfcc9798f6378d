"""Commands side by side: bounds, order, shares of the cores, signals."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from scm_jax.sweeping import pool


def job(tmp_path, name: str, script: str, *needs: str) -> pool.Job:
  words = ["bash", "-c", script]
  return pool.Job(name, words, tmp_path / f"{name}.log", needs)


def run(jobs, parallel=1, **settings):
  ended: list[tuple[str, int, str]] = []

  def done(job, end):
    ended.append((job.name, end.code, end.line))
    return end.code == 0

  pool.run(jobs, pool.Settings(parallel, **settings), done)
  return ended


def test_no_more_at_a_time_than_allowed(tmp_path):
  script = (
    f"touch {tmp_path}/$$.on; ls {tmp_path} | grep -c on; sleep 0.3;"
    f" rm {tmp_path}/$$.on"
  )
  jobs = [job(tmp_path, str(i), script) for i in range(5)]
  assert len(run(jobs, parallel=2)) == 5
  counts = [int((tmp_path / f"{i}.log").read_text()) for i in range(5)]
  assert max(counts) == 2


def test_a_job_waits_for_its_needs_and_falls_with_them(tmp_path, monkeypatch):
  jobs = [
    job(tmp_path, "teacher", "sleep 0.3; touch made; exit 0"),
    job(tmp_path, "student", "ls made; exit $?", "teacher"),
    job(tmp_path, "bad", "echo one; echo the reason; echo; exit 3"),
    job(tmp_path, "fallen", "exit 0", "bad"),
    job(tmp_path, "deeper", "exit 0", "fallen"),
  ]
  monkeypatch.chdir(tmp_path)
  ended = run(jobs, parallel=3)
  assert sorted(ended) == [
    ("bad", 3, "the reason"),
    ("student", 0, ""),
    ("teacher", 0, ""),
  ]


def test_the_last_line_of_a_failure(tmp_path):
  (tmp_path / "quiet.log").write_text("of an earlier attempt\n")
  jobs = [
    job(tmp_path, "quiet", "exit 4"),
    job(tmp_path, "killed", "echo working; kill -KILL $$"),
  ]
  assert run(jobs) == [
    ("quiet", 4, "exit code 4 without any output"),
    ("killed", -9, "killed by SIGKILL after: working"),
  ]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity")
def test_each_has_its_share_of_the_cores(tmp_path):
  mine = os.sched_getaffinity(0)
  script = "sleep 0.2; python3 -c 'import os; print(os.sched_getaffinity(0))'"
  run([job(tmp_path, str(i), script) for i in range(2)], parallel=2)
  seen = [eval((tmp_path / f"{i}.log").read_text()) for i in range(2)]
  # Which of the two takes which share is open.
  assert sorted(seen, key=min) == [
    pool.share(sorted(mine), i, 2) for i in (0, 1)
  ]
  assert os.sched_getaffinity(0) == mine


def test_shares_cover_the_cores():
  parts = [pool.share(range(8), slot, 3) for slot in range(3)]
  assert sorted(core for part in parts for core in part) == list(range(8))
  assert [pool.share([4, 5], slot, 3) for slot in range(3)] == [{4}, {5}, {4}]


SCRIPT = """
import sys
from scm_jax.sweeping import pool
import pathlib
here = pathlib.Path(sys.argv[1])
def made(name, script):
  words = ["bash", "-c", script]
  return pool.Job(name, words, here / f"{name}.log")
wait = "touch on; for i in {1..100}; do sleep 0.1; done"
wait = 'trap "echo saved; exit 0" TERM; ' + wait
jobs = [made("a", wait), made("b", "touch b")]
try:
  pool.run(jobs, pool.Settings(1), lambda job, end: print(end) or True)
except KeyboardInterrupt:
  print("interrupted")
"""


def _stopped(tmp_path, script: str, *signals: int) -> tuple[str, float]:
  """Returns what a pool in another process prints when it gets signals."""
  child = subprocess.Popen(
    [sys.executable, "-c", script, str(tmp_path)],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    stdout=subprocess.PIPE,
    text=True,
  )
  while not (tmp_path / "on").exists():
    time.sleep(0.02)
  start = time.monotonic()
  for number in signals:
    child.send_signal(number)
    time.sleep(0.2)
  out, _ = child.communicate(timeout=300)
  return out, time.monotonic() - start


def test_ctrl_c_lets_runs_save_and_starts_no_more(tmp_path):
  out, _ = _stopped(tmp_path, SCRIPT, signal.SIGINT)
  assert "Result(code=0, line='', stopped=True)\ninterrupted" in out
  assert (tmp_path / "a.log").read_text().endswith("saved\n")
  assert not (tmp_path / "b").exists()


def test_a_second_ctrl_c_kills(tmp_path):
  deaf = SCRIPT.replace('trap "echo saved; exit 0" TERM', 'trap "" TERM')
  out, seconds = _stopped(tmp_path, deaf, signal.SIGINT, signal.SIGINT)
  assert "Result(code=-9" in out and out.endswith("interrupted\n")
  assert seconds < 8
