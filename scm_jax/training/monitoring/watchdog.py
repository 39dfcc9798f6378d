"""Says so when a step takes too long, and where every thread is then."""

import faulthandler
import logging
import sys
import threading
import time


class Watchdog:
  """Within it, `beat` is expected before its patience ends.

  It changes nothing in the run: a step that comes late is reported again, with
  the time it took.
  """

  def __init__(self, patience: float):
    """Prepares; watches only within `with`.

    Args:
      patience: seconds; 0 never reports.
    """
    self._patience = patience
    self._changed = threading.Condition()
    self._step, self._since, self._reported = 0, 0.0, False
    self._stopped = False
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def __enter__(self) -> "Watchdog":
    self._since = time.monotonic()
    if self._patience:
      self._thread.start()
    return self

  def __exit__(self, *error) -> None:
    with self._changed:
      self._stopped = True
      self._changed.notify()
    if self._patience:
      self._thread.join()

  def beat(self, step: int) -> None:
    """A step has ended, or whatever else this counts."""
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
          continue
        self._report()

  def _report(self) -> None:
    self._reported = True
    logging.warning(
      "no step has ended for %.0f s, since step %d; it may be compiling, slow "
      "or hung. What every thread does:",
      *(time.monotonic() - self._since, self._step),
    )
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
