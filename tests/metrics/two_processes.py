"""Prints what one of two processes that share a pass ends with.

Processes of their own: `two_processes.py PORT INDEX`.
"""

import json
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from scm_jax import errors
from scm_jax.metrics import multihost, streaming
from scm_jax.metrics.pixels import pixel_extractor

INDEX = int(sys.argv[2])


class Bounds:
  """Observes the first and last sample."""

  def __init__(self):
    self.seen, self.joined = [], []

  def see(self, start, count, images):
    self.seen = [*self.seen[:1], start][:1] + [start + count]

  def state(self):
    return {"seen": np.asarray(self.seen)}

  def join(self, states):
    self.joined = [state["seen"].tolist() for state in states]


def share_a_pass():
  images = np.random.default_rng(0).integers(0, 256, (700, 8, 8, 1), np.uint8)
  extraction = streaming.Extraction([pixel_extractor((8, 8, 1))])
  bounds, size = Bounds(), extraction.process_batch_size(100)

  def batches(samples):
    for first in range(samples.start, samples.stop, size):
      yield streaming.pad_batch(images[first : first + size], size)

  found = streaming.collect(extraction, batches, 700, keep=100, observer=bounds)
  pixels = found["pixels"]
  return {
    "seen": bounds.seen,
    "joined": bounds.joined,
    "mean": pixels["moments"].mean.tolist(),
    "m2": pixels["moments"].m2.tolist(),
    "kept": pixels["features"].tolist(),
  }


def exchange():
  multihost._PIECE = 64  # so that a few thousand bytes are several pieces
  lengths, exact = [], True
  for sizes in ((0, 3), (5000, 1), (4 * 64 * 5 + 2, 4 * 64 * 3)):
    # Every value that a byte can have, and a float64 that is no float32.
    data = [np.arange(size, dtype=np.uint8) for size in sizes]
    found = list(multihost.all_gather_objects((data[INDEX], np.pi)))
    lengths.append([len(part) for part, _ in found])
    exact &= all((a == b).all() for a, (b, _) in zip(data, found, strict=True))
    exact &= all(pi == np.pi for _, pi in found)
  return {"lengths": lengths, "exact": bool(exact)}


def fail():
  def make():
    if INDEX:
      raise errors.ConfigError("bad flag")

  try:
    multihost.raise_on_any(make)
  except errors.UserError as error:
    words = str(error)
    if INDEX:  # says it itself
      words = f"process 1 failed: {words}"
    return f"{type(error).__name__}: {words}"
  return "nothing"


jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(
  f"localhost:{sys.argv[1]}", 2, INDEX, cluster_detection_method="deactivate"
)
print(
  json.dumps(
    {
      **share_a_pass(),
      **exchange(),
      "first": multihost.from_process_zero(lambda: f"of process {INDEX}"),
      "failed": fail(),
    }
  )
)
