"""Logging of the tasks, what libraries may print, and tables for a terminal."""

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import Any


def start() -> None:
  """Logs timed lines to standard error, libraries' only when they warn."""
  # XLA and TensorFlow greet the user from C++, and on a full disk add lines of
  # their own to the one that says so.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  # Buckets are read by gcsfs; where TensorFlow is there, etils would import it.
  os.environ.setdefault("EPATH_USE_TF", "false")
  logging.basicConfig(
    level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
  )
  for noisy in ("absl", "jax", "orbax", "matplotlib"):
    logging.getLogger(noisy).setLevel(logging.WARNING)
  # Before it raises the error of a failed save or restore, Orbax logs the
  # traceback in each of its threads, asyncio that of every write that nobody
  # waits for, and TensorStore each write that ends later: hundreds of lines.
  logging.getLogger("absl").addFilter(_no_traceback)
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  if getattr(sys.unraisablehook, "func", None) is not _unraisable:
    sys.unraisablehook = functools.partial(_unraisable, sys.unraisablehook)


def aligned(lines: dict[str, str]) -> str:
  """Returns a table of names and texts in two columns."""
  width = max(map(len, lines))
  return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def _no_traceback(record: logging.LogRecord) -> bool:
  return not record.exc_info


def _unraisable(before: Callable[[Any], None], event: Any) -> None:
  code = getattr(event.object, "cr_code", None)  # of a coroutine
  abandoned = code is not None and "orbax" in code.co_filename
  if not abandoned and str(event.exc_value) != "Event loop is closed":
    before(event)
