"""`scm-jax bench`: measures a config's speed and memory on the devices here."""

import argparse
import json

from scm_jax.cli import configs, console, flags, platforms
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax bench --config=configs/digits.py:run=scd
scm-jax bench --config=configs/digits.py:run=scd --json
scm-jax bench --config=configs/imagenet512.py:run=scd,size=xxl --abstract"""

FLAGS = {
  "config": configs.FLAGS,
  "--repeats=N": "how many steps are timed; default 10",
  "--sample-batch=N": "how many images are drawn at once to measure the "
  "samplers' throughput; default 64",
  "--abstract": "count FLOPs and bytes from shapes, for configs of any size, "
  "and run nothing",
  "--layers": "time every distinct convolution and product of the network",
  "--compile": "with --abstract: also compile here, to find the peak memory",
  **flags.JSON,
}
add_arguments = flags.adder(FLAGS, repeats=10, sample_batch=64)


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Prints FLOPs, step times and sampling latencies."""
  config = configs.parse_config(config_argv)
  if args.compile and not args.abstract:
    raise ConfigError("--compile is for --abstract; bench compiles without it")
  if args.layers and args.abstract:
    raise ConfigError("--layers times layers, and --abstract runs nothing")
  flags.check(args, "repeats", "sample_batch", least=1)
  platforms.announce()

  import jax

  from scm_jax.planning import estimate, targets
  from scm_jax.training import resolve
  from scm_jax.training.benchmarks import layers, train_step

  # The teacher's weights are random, so that the config need not name one.
  config.teacher = config.teacher or "random"
  checked = resolve.check(config)
  rates = estimate.rates(targets.card_here(jax.devices()[0].device_kind))
  if args.abstract:
    result, show = train_step.count(config, args.compile), abstract_table
  elif args.layers:
    result = layers.measure(checked, args.repeats, rates)
    show = layers_table
  else:
    batch = args.sample_batch
    result = train_step.measure(config, args.repeats, rates, batch)
    show = table
  print(json.dumps(result) if args.json else show(result))


def table(result: dict) -> str:
  """Returns the result as lines for a terminal."""
  step, flops = result["step_ms"], result["flops"]
  sampling, samples = result["sampling"], result["sample_ms"]
  ratios = [f"{k} {x:.2f}" for k, x in result["flops_in_forwards"].items()]
  mfu = "unknown for this device"
  if result["mfu"] is not None:
    mfu = f"{result['mfu']:.1%}, with recomputation {result['hfu']:.1%}"
  lines = {
    "device": f"{result['devices']} x {result['device']}",
    "config": result["config"],
    "parameters": f"{result['params'] / 1e6:.2f} M",
    "FLOPs": f"{flops['forward']:.3g} forward, {flops['step']:.3g} step",
    "step in forwards": ", ".join(ratios),
    "step": f"{step['median']:.1f} ms (10 %: {step['p10']:.1f}, "
    f"90 %: {step['p90']:.1f}), {result['images_per_second']:.0f} images/s",
    "1 step": _sampling(sampling, "1"),
    "2 steps": _sampling(sampling, "2"),
    "teacher": f"one image in {samples['teacher']:.2f} ms",
    "memory": f"{(result['peak_bytes'] or 0) / 2**20:.0f} MiB",
    "MFU": mfu,
  }
  return console.aligned(lines)


def _sampling(sampling: dict, steps: str) -> str:
  """Returns a student's latency and throughput, and their limits if known."""
  found = sampling[steps]
  latency = f"one image in {found['ms']:.2f} ms"
  throughput = f"{found['images_per_second']:.0f} images/s"
  if found["floor_ms"] is not None:
    latency += f" (at least {found['floor_ms']:.3f})"
    throughput += f" (at most {found['images_per_second_limit']:.0f})"
  return f"{latency}; {throughput} in batches of {sampling['batch']}"


def abstract_table(result: dict) -> str:
  """Returns the result of `--abstract` as lines for a terminal."""
  flops, sizes = result["flops"], result["argument_bytes"]
  lines = {
    "config": result["config"],
    "parameters": f"{result['params'] / 1e6:.2f} M",
    "FLOPs": f"{flops['forward']:.3g} forward, {flops['step']:.3g} step "
    f"({flops['step'] / flops['forward']:.2f} forwards)",
    "arguments": f"{_gib(sum(sizes.values()))}: "
    + ", ".join(f"{name} {_gib(count)}" for name, count in sizes.items()),
  }
  if result["peak_bytes"]:
    lines["peak memory"] = _gib(result["peak_bytes"])
  return console.aligned(lines)


def _gib(count: int) -> str:
  return f"{count / 2**30:.2f} GiB"


def layers_table(result: dict) -> str:
  """Returns the result of `--layers` as lines for a terminal."""
  import pandas as pd

  rows = []
  for layer in result["layers"]:
    shapes = " * ".join("x".join(map(str, s)) for s in layer["shapes"])
    row = {"layer": f"{layer['kind']} {shapes}", "count": layer["count"]}
    for name, ms in layer["ms"].items():
      rate = layer["flops_per_second"][name] / 1e9
      row[name] = f"{ms:.3f} ms, {rate:.0f} GFLOP/s"
      if layer["pytorch_ms"]:
        row[name] += f" (PyTorch {layer['pytorch_ms'][name]:.3f} ms)"
    rows.append(row | {"share": f"{layer['share']:.1%}"})
  head = f"{result['device']}, {result['config']}, step {result['step_ms']:.1f}"
  return f"{head} ms\n{pd.DataFrame(rows).to_string(index=False)}"
