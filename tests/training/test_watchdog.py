"""The watchdog reports a step that is late, and nothing else."""

import logging
import threading

from scm_jax.training.monitoring.watchdog import Watchdog


def hung(event):
  event.wait(60)


def test_reports_a_late_step_once_with_every_stack(caplog, capfd):
  said, event = threading.Event(), threading.Event()
  handler = logging.Handler()
  handler.emit = lambda record: said.set()
  logging.getLogger().addHandler(handler)
  thread = threading.Thread(target=hung, args=(event,))
  try:
    thread.start()
    with Watchdog(patience=0.05) as dog:
      dog.beat(7)
      assert said.wait(60)
      # The step ends at last: it reports the delay, and goes on watching.
      dog.beat(8)
      assert "step 8 came after" in caplog.text
      said.clear()
      assert said.wait(60)
  finally:
    logging.getLogger().removeHandler(handler)
    event.set()
    thread.join()
  first, came, second = caplog.messages[:3]
  assert "no step has ended for" in first and "since step 7" in first
  assert "since step 8" in second
  stacks = capfd.readouterr().err
  assert " in hung" in stacks and "test_reports_a_late_step" in stacks


def test_without_a_late_step_it_is_silent_and_ends_at_once(caplog, capfd):
  for patience in (0, 1000):
    with Watchdog(patience) as dog:
      for step in range(3):
        dog.beat(step)
  assert not caplog.messages and not capfd.readouterr().err
  assert all("_watch" not in thread.name for thread in threading.enumerate())
