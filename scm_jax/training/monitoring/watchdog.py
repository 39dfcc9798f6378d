"""Reports a step that takes too long, and what every thread is doing then."""

import faulthandler
import logging
import sys
import threading
import time
from typing import Any, Self


class Watchdog:
  """A context manager that reports `patience` seconds without a `beat`.

  A patience of 0 reports nothing. A step that comes after a report is reported
  with the time that it took.
  """

  def __init__(self, patience: float):
    self._patience = patience
    self._changed = threading.Condition()
    self._step, self._since, self._reported = 0, 0.0, False
    self._stopped = False
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def __enter__(self) -> Self:
    self._since = time.monotonic()
    if self._patience:
      self._thread.start()
    return self

  def __exit__(self, *error: Any) -> None:
    with self._changed:
      self._stopped = True
      self._changed.notify()
    if self._patience:
      self._thread.join()

  def beat(self, step: int) -> None:
    """Restarts the clock, because `step` or work after it has ended."""
    with self._changed:
      now = time.monotonic()
      if self._reported:
        logging.warning("step %d came after %.0f s", step, now - self._since)
      self._step, self._since, self._reported = step, now, False
      self._changed.notify()

  def _watch(self) -> None:
    with self._changed:
      while not self._stopped:
        left = self._since + self._patience - time.monotonic()
        if self._reported or left > 0:
          self._changed.wait(None if self._reported else left)
        else:
          self._report()

  def _report(self) -> None:
    self._reported = True
    seconds = time.monotonic() - self._since
    logging.warning(
      f"no step has ended for {seconds:.0f} s, since step {self._step}; it may "
      "be compiling, slow or hung. The stack of every thread follows:"
    )
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
