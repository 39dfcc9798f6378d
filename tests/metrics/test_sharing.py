"""A pass cut into parts, by one process and by two that are real."""

import json
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import accumulator, features, multihost, streaming
from scm_jax.metrics.accumulator import Accumulator
from scm_jax.metrics.partial import Partial

TOTAL, KEEP, DIM, CLASSES = 137, 40, 5, 3


def _sums(x, logits, mine, keep=KEEP, size=16):
  sums = Accumulator(DIM, TOTAL, keep, mine)
  for first in range(mine.start, mine.stop, size):
    part = slice(first, min(first + size, mine.stop))
    sums.add(x[part], logits[part])
  return sums.result()


@pytest.mark.parametrize(
  "cuts",
  [(), (16,), (1,), (0, 136), (50, 50, 51), tuple(range(1, TOTAL))],
  ids=lambda cuts: f"{len(cuts) + 1} parts",
)
def test_any_parts_are_the_whole(cuts):
  rng = np.random.default_rng(len(cuts))
  x = (1e3 + rng.normal(size=(TOTAL, DIM))).astype(np.float32)
  logits = rng.normal(size=(TOTAL, CLASSES)).astype(np.float32)
  edges = [0, *cuts, TOTAL]
  parts = [range(*pair) for pair in zip(edges[:-1], edges[1:], strict=True)]
  found = accumulator.merge(_sums(x, logits, part) for part in parts)
  whole = _sums(x, logits, range(TOTAL))
  assert found.moments.n == TOTAL
  for name in ("mean", "covariance"):
    mine, theirs = (getattr(c.moments, name) for c in (found, whole))
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
  expected = x[accumulator.chosen(TOTAL, KEEP)]
  assert found.kept.tobytes() == whole.kept.tobytes() == expected.tobytes()
  assert found.classes.score() == pytest.approx(whole.classes.score(), 1e-12)


@pytest.mark.parametrize("total", [0, 1, 7, 16, 50_000])
@pytest.mark.parametrize("count", [1, 3, 16])
def test_spans_are_all_samples_once_and_even(total, count, monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: count)
  spans = []
  for index in range(count):
    monkeypatch.setattr(jax, "process_index", lambda index=index: index)
    spans.append(multihost.span(total))
  assert [i for span in spans for i in span] == list(range(total))
  sizes = {len(span) for span in spans}
  assert max(sizes) - min(sizes) <= 1
  assert (
    (multihost.portion(256) - 1) * count < 256 <= multihost.portion(256) * count
  )


def test_a_part_goes_on_where_it_was_saved(tmp_path):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(TOTAL, DIM)).astype(np.float32)
  mine, partial = range(50, 120), Partial(tmp_path / "partial")
  sums = Accumulator(DIM, TOTAL, KEEP, mine)
  sums.add(x[50:82])
  partial.save({"x": sums}, {})
  again = Accumulator(DIM, TOTAL, KEEP, mine)
  assert partial.restore({"x": again}) == (32, {})
  for part in (sums, again):
    part.add(x[82:120])
  for name in ("mean", "m2"):
    one, other = (getattr(s.result().moments, name) for s in (sums, again))
    assert one.tobytes() == other.tobytes()
  assert sums.result().kept.tobytes() == again.result().kept.tobytes()
  with pytest.raises(ValueError, match="another size"):
    partial.restore({"x": Accumulator(DIM, TOTAL, KEEP, range(0, 30))})


def test_one_process_is_by_itself(tmp_path):
  def fail():
    raise errors.ConfigError("no")

  path = tmp_path / "partial"
  assert list(multihost.every(3)) == [3] and multihost.first(lambda: 4) == 4
  assert multihost.own(path) == path
  with pytest.raises(errors.ConfigError, match="^no$"):
    multihost.agree(fail)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  """What `two_processes.py` prints in each of two processes."""
  folder = tmp_path_factory.mktemp("two")
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  program = pathlib.Path(__file__).with_name("two_processes.py")
  logs = [folder / str(index) for index in range(2)]
  processes = [
    subprocess.Popen(
      [sys.executable, program, str(port), str(index)],
      stdout=log.open("w"),
      stderr=subprocess.STDOUT,
    )
    for index, log in enumerate(logs)
  ]
  try:
    for process, log in zip(processes, logs, strict=True):
      assert process.wait(timeout=900) == 0, log.read_text()[-3000:]
  finally:
    for process in processes:
      process.kill()
  words = [log.read_text().splitlines() for log in logs]
  return [
    json.loads(next(line for line in lines if line.startswith("{")))
    for lines in words
  ]


def test_two_processes_share_a_pass(two):
  """Each has half of the samples; both end with all."""
  assert [found["seen"] for found in two] == [[0, 350], [350, 700]]
  for found in two:
    del found["seen"]
  assert two[0] == two[1]
  rng, found = np.random.default_rng(0), two[0]
  images = rng.integers(0, 256, (700, 8, 8, 1), np.uint8)
  extraction = streaming.Extraction([features.PixelExtractor((8, 8, 1))])
  whole = streaming.collect_images(images, extraction, size=50, keep=100)
  pixels = whole["pixels"]
  np.testing.assert_allclose(found["mean"], pixels.moments.mean, rtol=1e-9)
  np.testing.assert_allclose(
    found["m2"], pixels.moments.m2, rtol=1e-9, atol=1e-9
  )
  np.testing.assert_array_equal(np.float32(found["kept"]), pixels.kept)
  assert found["joined"] == [[0, 350], [350, 700]]


def test_two_processes_exchange_any_lengths_and_errors(two):
  found = two[0]
  assert found["lengths"] == [[0, 3], [5000, 1], [4 * 64 * 5 + 2, 4 * 64 * 3]]
  assert found["exact"]
  assert found["first"] == "of process 0"
  assert found["failed"] == "ConfigError: process 1 failed: bad flag"
