"""A pass cut into parts, by one process and by two that are real."""

import functools
import json
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from scm_jax import errors
from scm_jax.metrics import accumulator, multihost, streaming
from scm_jax.metrics.accumulator import Accumulator
from scm_jax.metrics.array_file import PassCheckpoint
from scm_jax.metrics.pixels import pixel_extractor

TOTAL, KEEP, DIM, CLASSES = 137, 40, 5, 3


def _sums(x, logits, mine, keep=KEEP, size=16):
  sums = Accumulator(TOTAL, keep, mine)
  for first in range(mine.start, mine.stop, size):
    part, count = slice(first, first + size), min(size, mine.stop - first)
    sums.add({"x": {"features": x[part], "logits": logits[part]}}, count)
  return sums.result().get("x", {})


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
  sums = [_sums(x, logits, part) for part in parts]
  found = functools.reduce(accumulator.merge, sums)
  whole = _sums(x, logits, range(TOTAL))
  assert found["moments"].n == TOTAL
  for name in ("mean", "covariance"):
    mine, theirs = (getattr(c["moments"], name) for c in (found, whole))
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
  expected = x[accumulator.choose_kept(TOTAL, KEEP)].tobytes()
  assert found["features"].tobytes() == expected
  assert whole["features"].tobytes() == expected
  for field in ("counts", "probabilities", "negentropies"):
    mine, theirs = (getattr(c["classes"], field) for c in (found, whole))
    np.testing.assert_allclose(mine, theirs, rtol=1e-12)


@pytest.mark.parametrize("total", [0, 1, 7, 16, 50_000])
@pytest.mark.parametrize("count", [1, 3, 16])
def test_spans_are_all_samples_once_and_even(total, count, monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: count)
  spans = []
  for index in range(count):
    monkeypatch.setattr(jax, "process_index", lambda index=index: index)
    spans.append(multihost.process_samples(total))
  assert [i for span in spans for i in span] == list(range(total))
  sizes = {len(span) for span in spans}
  assert max(sizes) - min(sizes) <= 1


def test_a_batch_is_shared_evenly(monkeypatch):
  extraction = streaming.Extraction([pixel_extractor((8, 8, 1))])
  extraction.devices = 4
  for count in (1, 3, 16):
    monkeypatch.setattr(jax, "process_count", lambda count=count: count)
    size = extraction.process_batch_size(256)
    assert size % 4 == 0 and (size - 4) * count < 256 <= size * count


def test_a_part_goes_on_where_it_was_saved(tmp_path, caplog):
  """Of two extractors, and saved more than once."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(TOTAL, DIM)).astype(np.float32)
  mine, folder = range(50, 120), tmp_path / "partial"

  def begin():
    return Accumulator(TOTAL, KEEP, mine)

  def add(sums, start, stop):
    part = {"features": x[start:stop]}
    sums.add({"a": part, "b": part}, stop - start)

  sums, checkpoint = begin(), PassCheckpoint(folder)
  for start, stop in ((50, 60), (60, 82)):
    add(sums, start, stop)
    checkpoint.save(sums, {})
  again, other = begin(), PassCheckpoint(folder)
  assert other.restore(again, None) and again.count == 32
  add(again, 82, 100)
  other.save(again, {})
  third = begin()
  assert PassCheckpoint(folder).restore(third, None)
  add(third, 100, 120)
  add(sums, 82, 100)
  add(sums, 100, 120)
  for name in "ab":
    one, two = sums.result()[name], third.result()[name]
    for field in ("mean", "m2"):
      values = [getattr(s["moments"], field).tobytes() for s in (one, two)]
      assert values[0] == values[1]
    assert one["features"].tobytes() == two["features"].tobytes()
  small = Accumulator(TOTAL, KEEP, range(0, 30))
  assert not PassCheckpoint(folder).restore(small, None)
  assert "of 30 expected" in caplog.text


def test_one_process_is_by_itself(tmp_path):
  def fail():
    raise errors.ConfigError("no")

  path = tmp_path / "partial"
  assert list(multihost.all_gather_objects(3)) == [3]
  assert multihost.from_process_zero(lambda: 4) == 4
  assert multihost.process_path(path) == path
  with pytest.raises(errors.ConfigError, match="^no$"):
    multihost.raise_on_any(fail)


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
  extraction = streaming.Extraction([pixel_extractor((8, 8, 1))])
  whole = streaming.collect_images(images, extraction, size=50, keep=100)
  pixels = whole["pixels"]
  moments = pixels["moments"]
  np.testing.assert_allclose(found["mean"], moments.mean, rtol=1e-9)
  np.testing.assert_allclose(found["m2"], moments.m2, rtol=1e-9, atol=1e-9)
  np.testing.assert_array_equal(np.float32(found["kept"]), pixels["features"])
  assert found["joined"] == [[0, 350], [350, 700]]


def test_two_processes_exchange_any_lengths_and_errors(two):
  found = two[0]
  assert found["lengths"] == [[0, 3], [5000, 1], [4 * 64 * 5 + 2, 4 * 64 * 3]]
  assert found["exact"]
  assert found["first"] == "of process 0"
  assert found["failed"] == "ConfigError: process 1 failed: bad flag"
