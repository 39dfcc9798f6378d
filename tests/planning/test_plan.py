"""The command, compiling for virtual devices and absent hardware."""

import copy
import dataclasses
import json
import math

import pytest

from scm_jax.cli import plan as command
from scm_jax.planning import compile as compiler
from scm_jax.planning import plan, targets, topology

KEYS = {
  "target",
  "devices",
  "mesh",
  "global_batch",
  "params",
  "peak_bytes_per_device",
  "argument_bytes_per_device",
  "temp_bytes_per_device",
  "aliased_bytes_per_device",
  "flops_per_step",
  "collectives",
  "collective_bytes_per_step",
  "overlapped_collective_bytes",
  "collective_bytes_beside_products",
  "involuntary_rematerializations",
  "fits",
  "device_bytes",
  "compile_seconds",
}


@pytest.fixture(scope="module")
def answer(_config):
  """Returns the worker's answer for eight virtual devices."""
  target = targets.parse("cpu:8")
  return compiler.ask(_config, target, compile=True, flops=True)


def test_json(compiled, run):
  code, out, err = run("--target=cpu:8", "--json")
  assert (code, err) == (0, "")
  assert out.count("\n") == 1
  result = json.loads(out)
  assert result.keys() >= KEYS
  assert result["target"] == "cpu:8" and result["devices"] == 8
  assert result["mesh"] == {"data": 2, "fsdp": 4}
  assert result["global_batch"] == 16
  assert result["fits"] is True
  assert result["involuntary_rematerializations"] == 0
  assert result["estimate"] is None


def test_memory(compiled, config):
  """The compiler's arguments are what the arithmetic says they are."""
  result = plan.plan(config, targets.parse("cpu:8"))
  memory = result["memory"]
  # Two moments and three averages; the optimiser also counts its steps.
  assert memory["moments"] == pytest.approx(2 * memory["parameters"], rel=0.01)
  assert memory["averages"] == 3 * memory["parameters"]
  assert memory["batch"] == 2 * (8 * 8 + 4)  # two images of 8x8, two labels
  resident = sum(memory.values()) - memory["rest"]
  assert result["argument_bytes_per_device"] == pytest.approx(
    resident, rel=0.01
  )
  # All of the state is updated in place.
  state = sum(memory[k] for k in ("parameters", "moments", "averages"))
  assert result["aliased_bytes_per_device"] == pytest.approx(state, rel=0.01)
  assert sum(memory.values()) == result["peak_bytes_per_device"]


def test_collectives(compiled, config):
  """Nothing is resharded, and little more is sent than must be."""
  result = plan.plan(config, targets.parse("cpu:8"))
  assert result["collectives"]["all-gather"] > 0
  assert result["collectives"]["reduce-scatter"] > 0
  assert result["collectives"]["all-to-all"] == 0
  assert result["collectives"]["collective-permute"] == 0
  sent = result["collective_bytes_per_step"]
  assert sent == pytest.approx(sum(result["collective_bytes"].values()), abs=9)
  # What needs no gather at all is not sharded in so small a network.
  assert sent < 1.5 * result["minimum_collective_bytes_per_step"]


@pytest.fixture(scope="module")
def ddpmpp(_config):
  """Returns the worker's figures for DDPM++ on eight virtual devices."""
  config = copy.deepcopy(_config)
  config.network.family = "ddpmpp"
  return compiler.ask(config, targets.parse("cpu:8"), compile=True)["compiled"]


def by_kind(traffic):
  """Returns the bytes of all-gathers, and of reduce-scatters."""
  kinds = ("all-gather", "reduce-scatter")
  return [sum(t["bytes"] for t in traffic if t["kind"] == k) for k in kinds]


@pytest.mark.slow
def test_every_family_counts_what_it_gathers(ddpmpp):
  """A program may gather once for several passes, but not less."""
  gathered, scattered = by_kind(ddpmpp["traffic"])
  least_gathered, least_scattered = by_kind(ddpmpp["minimum"])
  assert scattered == pytest.approx(least_scattered, rel=0.01) and scattered
  assert 0.49 * least_gathered < gathered < 1.01 * least_gathered


def test_table(compiled, run):
  code, out, err = run("--target=cpu:8")
  assert (code, err) == (0, "")
  assert "mesh data 2, fsdp 4; batch 16, 2 a device" in out
  assert "fits" in out and "all-gather" in out


def test_times(compiled, config):
  """Of a target whose rates are known."""
  result = plan.plan(config, targets.parse("a100-80gb:1x8"))
  estimate = result["estimate"]
  parts = ("compute_seconds", "update_seconds", "communication_seconds")
  assert estimate["step_seconds"] == pytest.approx(
    sum(estimate[part] for part in parts)
  )
  hours = config.total_steps * estimate["step_seconds"] / 3600
  assert estimate["device_hours"] == pytest.approx(8 * hours)
  assert estimate["total_images"] == config.total_steps * 16
  scaling = estimate["weak_scaling"]
  assert list(scaling) == ["8", "64", "256", "1024"]
  serial = [row["serial"] for row in scaling.values()]
  assert all(0 < value <= 1 for value in serial)
  assert serial == sorted(serial, reverse=True)
  assert "weak scaling" in command.table(result)


def test_too_small(compiled, config):
  target = targets.parse("cpu:8")
  card = dataclasses.replace(target.card, memory=100_000)
  result = plan.plan(config, dataclasses.replace(target, card=card))
  assert result["fits"] is False
  assert "100.00 kB" in command.table(result)


def test_compiler_out_of_memory(answer, config, monkeypatch):
  """A compiler that gives up tells the peak and no more."""
  told = ("argument", "temp", "aliased")
  dropped = {f"{name}_bytes" for name in told} | {
    "collectives",
    "traffic",
    "overlapped",
    "beside_products",
  }
  short = {k: v for k, v in answer["compiled"].items() if k not in dropped}
  monkeypatch.setattr(
    compiler, "ask", lambda *_, **__: answer | {"compiled": short}
  )
  result = plan.plan(config, targets.parse("v5e:2x4"))
  assert result["fits"] is False
  assert all(result[f"{name}_bytes_per_device"] is None for name in told)
  assert result["estimate"]["step_seconds"] > 0
  assert "NO" in command.table(result)


@pytest.mark.parametrize(
  "argv, said",
  [
    (["--target=a10-80gb:8x8"], "did you mean 'a100-80gb'?"),
    ([], "--target"),
    (["--target=cpu:8", "--config.microbatches=3"], "multiple of 24"),
    (["--target=cpu:8", "--host-gbps=100"], "--host-gbps"),
    (["--sample", "--target=h20"], "did you mean 'h200'?"),
    (["--sample", "--target=cpu", "--steps=0"], "--steps"),
    (["--target=cpu:8", "--batch=2"], "--sample"),
    (["--sample", "--target=cpu", "--search"], "--search"),
  ],
)
def test_mistakes(run, argv, said):
  code, out, err = run(*argv)
  assert (code, out) == (2, "")
  assert err.startswith("scm-jax plan: ") and err.count("\n") == 1
  assert said in err


@pytest.mark.parametrize(
  "target, extra", [("v5e:2x4", "plan-tpu"), ("h200:1x8", "plan-gpu")]
)
def test_plugin_is_missing(run, target, extra, monkeypatch):
  monkeypatch.setattr(topology, "is_installed", lambda module: False)
  code, out, err = run(f"--target={target}")
  assert (code, out) == (1, "")
  assert f"pip install 'scm-jax[{extra}]'" in err and err.count("\n") == 1


@pytest.mark.parametrize(
  "target",
  ["v5e:2x4", "a100-80gb:1x8"],
)
@pytest.mark.slow
def test_hardware_that_is_not_here(target, run, needs_plugin):
  needs_plugin(targets.parse(target))
  code, out, err = run(f"--target={target}", "--json")
  assert (code, err) == (0, "")
  result = json.loads(out)
  assert result["mesh"] == {"data": 2, "fsdp": 4}
  assert result["fits"] and result["collectives"]["all-gather"] > 0
  assert result["collectives"]["all-to-all"] == 0
  assert result["collectives"]["collective-permute"] == 0
  assert math.isfinite(result["estimate"]["step_seconds"])
