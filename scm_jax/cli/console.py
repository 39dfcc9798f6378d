"""What every task that works does first: logging, and a quiet backend."""

import logging
import os
import sys


def start() -> None:
  """Plain, timed lines on standard error; libraries only when they warn."""
  # TensorFlow only writes event files here; it need not greet anybody.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  logging.basicConfig(
    level=logging.INFO,
    format="%(asctime)s %(message)s",
    datefmt="%H:%M:%S",
    stream=sys.stderr,
  )
  for noisy in ("absl", "jax", "orbax", "matplotlib"):
    logging.getLogger(noisy).setLevel(logging.WARNING)
