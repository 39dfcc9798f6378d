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
from scm_jax.metrics import features, multihost, streaming

INDEX = int(sys.argv[2])


class Bounds:
  """A witness of the first and last sample that it saw."""

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
  extraction = streaming.Extraction([features.PixelExtractor((8, 8, 1))])
  witness, size = Bounds(), extraction.share(100)

  def batches(samples):
    for first in range(samples.start, samples.stop, size):
      yield streaming.fill_up(images[first : first + size], size)

  found = streaming.collect(extraction, batches, 700, keep=100, witness=witness)
  pixels = found["pixels"]
  return {
    "seen": witness.seen,
    "joined": witness.joined,
    "mean": pixels.moments.mean.tolist(),
    "m2": pixels.moments.m2.tolist(),
    "kept": pixels.kept.tolist(),
  }


def exchange():
  multihost._PIECE = 64  # so that a few thousand bytes are several pieces
  lengths, exact = [], True
  for sizes in ((0, 3), (5000, 1), (4 * 64 * 5 + 2, 4 * 64 * 3)):
    # Every value that a byte can have, and a float64 that is no float32.
    data = [np.arange(size, dtype=np.uint8) for size in sizes]
    found = list(multihost.every((data[INDEX], np.pi)))
    lengths.append([len(part) for part, _ in found])
    exact &= all((a == b).all() for a, (b, _) in zip(data, found, strict=True))
    exact &= all(pi == np.pi for _, pi in found)
  return {"lengths": lengths, "exact": bool(exact)}


def fail():
  def make():
    if INDEX:
      raise errors.ConfigError("bad flag")

  try:
    multihost.agree(make)
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
      "first": multihost.first(lambda: f"of process {INDEX}"),
      "failed": fail(),
    }
  )
)
