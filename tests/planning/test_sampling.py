"""`plan --sample`: the sampler, compiled for this machine and for others."""

import json
import math

import pytest

from scm_jax.cli import main
from scm_jax.planning import compile as compiler
from scm_jax.planning import sampling, targets, topology

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


@pytest.fixture
def run(flags, capfd):
  """Returns `run(*argv)`: exit code, stdout and stderr of the command."""

  def call(*argv):
    code = main.main(["plan", *flags, "--sample", *argv])
    return code, *capfd.readouterr()

  return call


@pytest.fixture
def compiled(answer, monkeypatch):
  """Makes the worker give this answer to every request."""
  monkeypatch.setattr(compiler, "ask", lambda *_, **__: answer)


def test_json(compiled, run):
  code, out, err = run("--target=cpu", "--batch=3", "--json")
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
  code, out, _ = run("--target=h200", "--batch=3")
  assert code == 0 and "2 evaluations" in out and "ms predicted" in out


@pytest.mark.parametrize(
  "argv, code, said",
  [
    (["--target=h20"], 2, "did you mean 'h200'?"),
    (["--target=cpu", "--steps=0"], 2, "--steps"),
  ],
)
def test_mistakes(run, argv, code, said):
  ended, out, err = run(*argv)
  assert (ended, out) == (code, "")
  assert said in err and err.count("\n") == 1


def _plugin(name):
  installed = {
    "tpu": topology.is_installed("libtpu"),
    "gpu": topology.gpu_plugin() is not None,
  }
  return pytest.mark.skipif(
    not installed[name], reason=f"the extra plan-{name} is not installed"
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "target",
  [
    pytest.param("v5e", marks=_plugin("tpu")),
    pytest.param("h200", marks=_plugin("gpu")),
  ],
)
def test_hardware_that_is_not_here(target, run):
  code, out, err = run(f"--target={target}", "--json")
  assert (code, err) == (0, "")
  result = json.loads(out)
  assert result["fits"]
  assert result["weight_kernel_bytes"] < 0.1 * result["parameter_bytes"]
  assert math.isfinite(result["predicted_ms"])
