"""What every task that works does first: logging, and a quiet backend."""

import logging
import os
import sys
from typing import Any


def start() -> None:
  """Plain, timed lines on standard error; libraries only when they warn."""
  # TensorFlow only builds TFDS's own datasets; it need not greet anybody.
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  logging.basicConfig(
    level=logging.INFO,
    format="%(asctime)s %(message)s",
    datefmt="%H:%M:%S",
    stream=sys.stderr,
  )
  for noisy in ("absl", "jax", "orbax", "matplotlib"):
    logging.getLogger(noisy).setLevel(logging.WARNING)
  _quiet_orbax()


def _quiet_orbax() -> None:
  """Leaves one line of a failed save: the one that the task ends with.

  Before it raises the error, Orbax logs the traceback in each of its threads,
  asyncio that of every write that nobody waits for, and TensorStore each write
  that ends later: hundreds of lines. A failed restore is much the same.
  """
  logging.getLogger("absl").addFilter(_no_traceback)
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  if sys.unraisablehook is not _unraisable:
    global _unraisable_before
    _unraisable_before, sys.unraisablehook = sys.unraisablehook, _unraisable


_unraisable_before = sys.__unraisablehook__


def _no_traceback(record: logging.LogRecord) -> bool:
  return not record.exc_info


def _unraisable(event: Any) -> None:
  code = getattr(event.object, "cr_code", None)  # of a coroutine
  abandoned = code is not None and "orbax" in code.co_filename
  if not abandoned and str(event.exc_value) != "Event loop is closed":
    _unraisable_before(event)
