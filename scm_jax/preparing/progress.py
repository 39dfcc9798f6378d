"""Lines that say how far it is, how fast it goes and how long it will take."""

import logging
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
EVERY = 10.0  # seconds between lines


class Progress:
  """Counts what is done and logs a line now and then."""

  def __init__(
    self,
    total: int,
    what: str,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock.

    Args:
      total: how many there are to do.
      what: of what, `images`.
      clock: seconds.
    """
    self._total, self._what, self._clock = total, what, clock
    self._start = self._last = clock()
    self._done = 0

  def advance(self, count: int = 1) -> None:
    """Counts, and logs if the last line is old."""
    self._done += count
    now = self._clock()
    if now - self._last >= EVERY:
      self._last = now
      _log.info(self.line())

  def line(self) -> str:
    """`1,200 of 50,000 images (2.4 %), 310/s, 2 min left`."""
    seconds = max(self._clock() - self._start, 1e-9)
    rate = self._done / seconds
    share = self._done / max(self._total, 1)
    left = duration((self._total - self._done) / rate) if rate else "?"
    return (
      f"{self._done:,} of {self._total:,} {self._what} ({share:.1%}), "
      f"{rate:,.4g}/s, {left} left"
    )


def duration(seconds: float) -> str:
  """`40 s`, `12 min`, `3.5 h`."""
  if seconds < 90:
    return f"{seconds:.0f} s"
  if seconds < 5400:
    return f"{seconds / 60:.0f} min"
  return f"{seconds / 3600:.1f} h"
