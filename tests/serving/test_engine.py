"""The threads that own the devices."""

import threading
from typing import NamedTuple

import numpy as np
import pytest

from scm_jax.errors import UserError
from scm_jax.serving import engine as engines

SECONDS = 20.0  # after which a test fails
IMAGES = np.zeros((1, 2, 2, 1), np.uint8)


class Asked(NamedTuple):
  """A request that draws when it may."""

  program: str = "small"
  begun: threading.Event | None = None
  may_end: threading.Event | None = None
  error: Exception | None = None

  def draw(self):
    if self.begun:
      self.begun.set()
    if self.may_end:
      assert self.may_end.wait(SECONDS)
    if self.error:
      raise self.error
    return IMAGES


def slow(program):
  return Asked(program, threading.Event(), threading.Event())


def drawn(future):
  return future.result(SECONDS)


def test_a_newer_request_of_a_view_drops_the_one_that_waits(engine):
  assert drawn(engine.submit("a", 0, Asked())).images is IMAGES
  busy = slow("small")
  first = engine.submit("b", 0, busy)
  assert busy.begun.wait(SECONDS)
  stale, newest = (engine.submit("a", 0, Asked()) for _ in range(2))
  assert drawn(stale) is None
  other = engine.submit("a", 1, Asked())
  busy.may_end.set()
  assert all(map(drawn, (first, newest, other)))


def test_a_compilation_keeps_nobody_else_waiting(engine):
  drawn(engine.submit("a", 0, Asked()))
  compiling = slow("large")
  later = engine.submit("a", 1, compiling)
  assert compiling.begun.wait(SECONDS)
  assert drawn(engine.submit("a", 0, Asked()))
  assert not engine.is_ready(compiling)
  compiling.may_end.set()
  assert drawn(later) and engine.is_ready(compiling)


@pytest.mark.parametrize(
  "error", [UserError("it cannot"), MemoryError("of 5\nGB"), ValueError()]
)
def test_a_failure_is_one_line_and_the_engine_lives_on(engine, error):
  failed = engine.submit("a", 0, Asked("bad", error=error))
  with pytest.raises(UserError) as refusal:
    drawn(failed)
  assert "\n" not in str(refusal.value)
  assert not engine.is_ready(Asked("bad"))
  assert drawn(engine.submit("a", 0, Asked()))


def test_programs_are_ready_before_they_are_asked_for():
  engine = engines.Engine([Asked("x"), Asked("x"), Asked("y")])
  ready = lambda: engine.is_ready(Asked("y")) and engine.is_ready(Asked("x"))
  deadline = threading.Event()
  for _ in range(int(100 * SECONDS)):
    if ready():
      break
    deadline.wait(0.01)
  assert ready() and engine.waiting_programs == 0
  engine.close()


def test_so_many_programs_are_kept(engine, monkeypatch):
  monkeypatch.setattr(engines, "PROGRAMS", 3)
  for number in range(4):
    drawn(engine.submit("a", 0, Asked(str(number))))
  assert engine.is_ready(Asked("3")) and not engine.is_ready(Asked("0"))
  assert drawn(engine.submit("a", 0, Asked("0")))


def test_a_future_that_is_cancelled_harms_nobody(engine):
  """As the server's loop does when it closes a connection."""
  busy = slow("small")
  first = engine.submit("a", 0, busy)
  assert busy.begun.wait(SECONDS)
  waiting, replaced, left = (engine.submit("a", n, Asked()) for n in (1, 2, 3))
  for future in (waiting, replaced, left):
    assert future.cancel()
  assert not first.cancel()
  newer = engine.submit("a", 2, Asked())
  busy.may_end.set()
  assert drawn(first) and drawn(newer)
  engine.leave("a")
  assert drawn(engine.submit("a", 0, Asked("other")))


def test_who_leaves_waits_for_nothing(engine):
  busy = slow("small")
  first = engine.submit("a", 0, busy)
  assert busy.begun.wait(SECONDS)
  waiting = engine.submit("a", 1, Asked("other"))
  engine.leave("a")
  assert drawn(waiting) is None
  busy.may_end.set()
  assert drawn(first)


def test_nothing_waits_for_an_engine_that_is_closed(engine):
  busy = slow("small")
  engine.submit("a", 0, busy)
  assert busy.begun.wait(SECONDS)
  waiting = engine.submit("a", 1, Asked("other"))
  threading.Timer(0.05, busy.may_end.set).start()
  engine.close()
  assert drawn(waiting) is None
  with pytest.raises(UserError):
    engine.submit("a", 0, Asked())
