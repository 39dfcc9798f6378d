"""`plan --sample`: the sampler, compiled for this machine and for others."""

import json
import math

import pytest

from scm_jax.planning import compile as compiler
from scm_jax.planning import sampling, targets

KEYS = {
  "target",
  "params",
  "steps",
  "batch",
  "parameter_bytes",
  "bytes_moved",
  "flops",
  "kernels",
  "library_calls",
  "temp_bytes",
  "peak_bytes",
  "floor_ms",
  "predicted_ms",
  "compile_seconds",
}


@pytest.fixture(scope="module")
def answer(_config):
  """Returns the worker's answer for one virtual device."""
  request = {"steps": 2, "batch": 3}
  return compiler.ask(_config, targets.parse("cpu", one=True), sample=request)


def test_json(compiled, run):
  code, out, err = run("--sample", "--target=cpu", "--batch=3", "--json")
  assert (code, err) == (0, "")
  result = json.loads(out)
  assert result.keys() >= KEYS
  assert (result["steps"], result["evaluations"], result["batch"]) == (2, 2, 3)
  assert result["floor_ms"] is None and result["predicted_ms"] is None


def test_no_call_passes_over_the_weights(answer):
  found = answer["sample"]
  assert found["weight_kernel_bytes"] < 0.01 * found["parameter_bytes"]
  assert found["least_bytes"] > 2 * found["parameter_bytes"]


def test_latencies(compiled, config):
  """More than the floor, and less on the faster card."""
  fast, slow = (
    sampling.plan(config, targets.parse(kind, one=True), 2, 3)
    for kind in ("h200", "a100-80gb")
  )
  for result in (fast, slow):
    assert 0 < result["floor_ms"] < result["predicted_ms"]
  assert fast["floor_ms"] < slow["floor_ms"]
  assert fast["predicted_ms"] < slow["predicted_ms"]


def test_a_table(compiled, run):
  code, out, _ = run("--sample", "--target=h200", "--batch=3")
  assert code == 0 and "2 evaluations" in out and "ms predicted" in out


@pytest.mark.slow
@pytest.mark.parametrize(
  "target",
  ["v5e", "h200"],
)
def test_hardware_that_is_not_here(target, run, needs_plugin):
  needs_plugin(targets.parse(target, one=True))
  code, out, err = run("--sample", f"--target={target}", "--json")
  assert (code, err) == (0, "")
  result = json.loads(out)
  assert result["fits"]
  assert result["weight_kernel_bytes"] < 0.1 * result["parameter_bytes"]
  assert math.isfinite(result["predicted_ms"])
