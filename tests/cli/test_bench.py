"""The command `bench`: the object it prints."""

import json
import math

import jax
import pytest

from scm_jax.cli import bench
from scm_jax.networks import weighting

# No dataset, and a step that asks its teacher once.
BARE = ("--config.data.name=none", "--config.objective.guidance=none")

KEYS = {
  "device",
  "devices",
  "config",
  "params",
  "flops",
  "flops_in_forwards",
  "step_ms",
  "sample_ms",
  "images_per_second",
  "peak_bytes",
  "mfu",
}


@pytest.fixture
def quick_compilation():
  """Half the time; what is printed is the same but for the numbers."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def test_json(command, flags, quick_compilation):
  """Without a workdir, a teacher or a dataset."""
  argv = [*flags("scd", *BARE), "--repeats=2"]
  code, out, err = command("bench", *argv, "--json")
  assert (code, err) == (0, "")
  assert out.count("\n") == 1
  result = json.loads(out)
  assert result.keys() == KEYS
  assert result["device"] == jax.devices()[0].device_kind
  assert result["devices"] == 1 and isinstance(result["config"], str)
  assert result["flops"].keys() == {"forward", "step"}
  assert result["flops_in_forwards"].keys() == {"diffusion", "sct", "scd"}
  assert result["step_ms"].keys() == {"median", "p10", "p90"}
  assert result["sample_ms"].keys() == {"1", "2", "teacher"}

  def numbers(value):
    if isinstance(value, dict):
      return [x for part in value.values() for x in numbers(part)]
    return [value] if isinstance(value, int | float) else []

  assert all(math.isfinite(x) and x > 0 for x in numbers(result))
  step = result["step_ms"]
  assert step["p10"] <= step["median"] <= step["p90"]
  per_second = result["images_per_second"]
  assert per_second == pytest.approx(8 / (step["median"] / 1e3))
  ratios = result["flops_in_forwards"]
  flops = result["flops"]
  assert ratios["diffusion"] < ratios["sct"] < ratios["scd"]
  assert ratios["scd"] == pytest.approx(flops["step"] / flops["forward"])
  assert result["mfu"] is None or "cpu" not in result["device"].lower()

  lines = bench.table(result).splitlines()
  assert any(line.startswith("step in forwards") for line in lines)
  assert f"{ratios['scd']:.2f}" in bench.table(result)


@pytest.mark.parametrize(
  "more, said",
  [
    (["--repeats=0"], "--repeats is 0; it must be positive"),
    (["--compile"], "--compile goes with --abstract"),
    (
      ["--abstract", "--config.network.form=edm"],
      "choose one of trigflow, edm2",
    ),
    (["--config.run=x"], "config.run is 'x'"),
    (["--config.btach_size=3"], "batch_size"),
  ],
)
def test_mistakes(more, said, refused, flags):
  assert said in refused(2, "bench", *flags("scd"), *more)


def test_abstract(command, flags):
  """The same step from shapes alone: nothing is drawn, compiled or run."""
  argv = [*flags("scd", *BARE), "--abstract"]
  code, out, err = command("bench", *argv, "--json")
  assert (code, err) == (0, "")
  result = json.loads(out)
  assert result["params"] == result["teacher_params"]
  # float32, with the weighting head: the teacher's parameters once; the
  # student's, two moments and three averages; three counters.
  weights = 4 * (result["params"] + weighting.FEATURES + 1)
  sizes = result["argument_bytes"]
  assert sizes["teacher"] == weights
  assert sizes["state"] == 6 * weights + 3 * 4
  assert sizes["batch"] == 8 * (8 * 8 + 4)  # uint8 images, int32 labels
  flops = result["flops"]
  assert 4.5 < flops["step"] / flops["forward"] < 6
  assert result["peak_bytes"] is None
  assert "peak memory" not in bench.abstract_table(result)


def test_abstract_needs_no_memory(command):
  """The largest distillation of the paper, 2048 images in one step."""
  argv = ["--config=configs/imagenet512.py:run=scd,size=xxl", "--abstract"]
  code, out, err = command("bench", *argv, "--json")
  assert (code, err) == (0, "")
  result = json.loads(out)
  assert result["params"] > 1.5e9
  assert sum(result["argument_bytes"].values()) > 5 * 4 * result["params"]
  # EDM2's paper counts 552 G multiply-adds for one image (Table 3).
  per_image = result["flops"]["forward"] / 2 / 2048
  assert per_image == pytest.approx(552e9, rel=0.08)
