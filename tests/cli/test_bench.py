"""The command `bench`: the object it prints."""

import json
import math

import jax
import pytest

from scm_jax.cli import bench, configs
from scm_jax.networks import attention, weighting
from scm_jax.objectives import OBJECTIVES
from scm_jax.planning import estimate, targets
from scm_jax.training import evaluations, resolve, sharding
from scm_jax.training.benchmarks import layers, sampling, train_step

# No dataset, and a step that asks its teacher once.
BARE = (
  "--config.data.name=none",
  "--config.objective.guidance=none",
  "--config.guide=",
)

KEYS = {
  "device",
  "devices",
  "config",
  "params",
  "flops",
  "flops_in_forwards",
  "step_ms",
  "sample_ms",
  "sampling",
  "images_per_second",
  "peak_bytes",
  "mfu",
  "hfu",
}


@pytest.mark.slow
def test_json(command, flags, monkeypatch):
  """Without a workdir, a teacher or a dataset."""
  # Those of other objectives are counted by test_step.
  few = {name: OBJECTIVES[name] for name in ("teacher", "sct", "scd")}
  monkeypatch.setattr(train_step, "OBJECTIVES", few)
  argv = [*flags("scd", *BARE), "--repeats=2", "--sample-batch=16"]
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
  sampling = result["sampling"]
  assert sampling["batch"] == 16
  assert sampling["parameter_bytes"] == 4 * result["params"]
  assert sampling["flops_per_evaluation"] == result["flops"]["forward"] / 8
  for steps in ("1", "2"):
    assert sampling[steps]["ms"] == result["sample_ms"][steps]
    # A processor whose rates nobody has published.
    assert sampling[steps]["floor_ms"] is None
    assert sampling[steps]["images_per_second_limit"] is None

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
  assert "at least" not in bench.table(result)
  sampling["1"].update(floor_ms=0.125, images_per_second_limit=8000.0)
  assert "(at least 0.125);" in bench.table(result)
  assert "images/s (at most 8000) in batches of 16" in bench.table(result)


def test_floors():
  """Small batches wait for the parameters, large ones for the arithmetic."""
  rates = sampling.Rates(flops=1e15, bandwidth=4e12)
  floor = lambda batch, steps: sampling.floor_ms(
    batch, steps, size=3_000_000_000, flops=1e12, rates=rates
  )
  assert floor(1, 1) == pytest.approx(1.0)  # memory alone: 0.75
  assert floor(1, 2) == 2 * floor(1, 1)
  assert floor(64, 1) == pytest.approx(64.0)
  small = sampling.floor_ms(1, 2, size=4_000_000, flops=1e6, rates=rates)
  assert small == pytest.approx(2 * 1e-3)
  assert sampling.floor_ms(1, 1, 1, 1.0, None) is None


def test_rates_of_devices():
  for name, card in (
    ("cpu", None),
    ("NVIDIA H200", "h200"),
    ("TPU v5 lite", "v5e"),
    ("NVIDIA H200 MIG 1g.18gb", None),
    ("NVIDIA H100 PCIe", None),
  ):
    rates = estimate.rates(targets.card_here(name))
    card = targets.CARDS.get(card)
    assert rates == (card and (card.flops, card.bandwidth))


@pytest.mark.parametrize(
  "more, said",
  [
    (["--sample-batch=0"], "--sample-batch is 0"),
    (["--repeats=0"], "--repeats is 0"),
    (["--compile"], "--abstract"),
    (["--abstract", "--config.network.form=edm"], "config.network.form"),
    (["--config.run=sct"], "--config=FILE:run=NAME"),
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_arithmetic_is_counted_with_and_without_what_is_computed_again(flags):
  """Recomputation changes the first figure alone."""

  def counted(remat):
    argv = flags("sct", *BARE, f"--config.network.remat={remat}")
    return train_step.arithmetic(resolve.resolve(configs.parse_config(argv)))

  hardware, model = counted("none")
  assert hardware == model
  again, same = counted("full")
  assert same == model
  assert 1.1 * model < again < 2 * model


def test_chunks_of_attention_are_all_counted(monkeypatch, flags):
  """XLA counts the body of a loop once."""
  monkeypatch.setattr(attention, "CHUNK", 4)
  argv = [*flags("teacher"), "--config.network.attn_resolutions=(4,)"]

  def counted(name):
    argument = f"--config.network.attention={name}"
    run = resolve.resolve(configs.parse_config([*argv, argument]))
    forward = train_step.forward_arithmetic(run)
    return forward, *train_step.arithmetic(run)

  assert counted("chunked") == counted("einsum")


def test_a_tangent_is_a_layer_of_its_own(flags):
  """The compiler must not take it for the value, which costs nothing more."""
  config = configs.parse_config(flags("scd", *BARE, "--config.teacher=random"))
  layer = next(
    layer
    for layer in layers.of_network(resolve.resolve(config))
    if layer.primitive.name == "conv_general_dilated"
  )
  x, w = layer.arrays
  y = jax.eval_shape(lambda x, w: layer(x, w), x, w)
  flops = lambda name: train_step.flops(
    jax.jit(layer.directions()[name]).lower(x, x, w, y).compile()
  )
  assert flops("tangent") == 2 * flops("forward")


@pytest.mark.slow
@pytest.mark.parametrize("run", ["teacher", "scd", "tcm", "cmt", "scd_vsd"])
def test_a_layers_passes_are_the_evaluations_of_a_step(flags, run):
  """With a pass of the unit of time, and a tangent and its value of two."""
  config = resolve.resolve(configs.parse_config(flags(run)))
  unit = {"forward": 1, "tangent": 2, "input": 1, "weight": 1}
  assert layers._in_step(config, unit) == evaluations.per_sample(config)


def test_layers_take_all_states_of_a_trajectory_at_once(flags):
  """And so have the arithmetic of as many samples, but for the same step."""
  argv = flags("cmt", *BARE, "--config.teacher=random")
  config = resolve.resolve(configs.parse_config(argv))
  states = config.spec.path_states(config.objective)
  batches = {layer.arrays[0].shape[0] for layer in layers.of_network(config)}
  parts = sharding.microbatches(config, jax.device_count())
  assert states > 1
  assert config.batch_size // jax.device_count() // parts * states in batches


def test_layers(command, flags):
  """Each in every direction; together they are the network's arithmetic."""
  argv = [*flags("scd", *BARE), "--layers", "--repeats=1", "--json"]
  code, out, err = command("bench", *argv)
  assert (code, err) == (0, "")
  result = json.loads(out)
  config = configs.parse_config(flags("scd", *BARE, "--config.teacher=random"))
  total = sum(row["count"] * row["flops"] for row in result["layers"])
  forward = train_step.forward_arithmetic(resolve.resolve(config))
  assert 0.7 * forward < total < forward
  for row in result["layers"]:
    assert row["ms"].keys() == {"forward", "tangent", "input", "weight"}
    assert all(ms > 0 for ms in row["ms"].values()) and row["share"] > 0
    assert row["pytorch_ms"] is None  # there is no GPU
  sizes = [row["shapes"][0][0] for row in result["layers"]]
  assert config.batch_size in sizes
  assert "GFLOP/s" in bench.layers_table(result)
