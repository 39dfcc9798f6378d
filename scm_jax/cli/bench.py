"""`scm-jax bench`: what a config costs on the devices here."""

import argparse

from scm_jax.cli import configs, console
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax bench --config=configs/digits.py:run=scd
scm-jax bench --config=configs/digits.py:run=scd --json
scm-jax bench --config=configs/imagenet512.py:run=scd,size=xxl --abstract"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  configs.add_config_argument(parser)
  parser.add_argument(
    "--repeats", type=int, default=10, metavar="N", help="timed steps"
  )
  parser.add_argument(
    "--abstract",
    action="store_true",
    help="from shapes alone, for configs of any size: nothing runs",
  )
  parser.add_argument(
    "--compile",
    action="store_true",
    help="with --abstract: compile here too, for the peak of memory",
  )
  parser.add_argument(
    "--json", action="store_true", help="one JSON object instead of a table"
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Prints FLOPs, step times and sampling latencies."""
  config = configs.parse_config(config_argv)
  if args.compile and not args.abstract:
    raise ConfigError("--compile goes with --abstract; bench always compiles")
  if args.repeats < 1:
    raise ConfigError(f"--repeats is {args.repeats}; it must be positive")
  console.start()

  import json

  from scm_jax.training import abstract, benchmark, build

  # A teacher's weights are random here, so that none need be named.
  if not config.teacher:
    config.teacher = "random"
  build.check(config)
  if args.abstract:
    result = abstract.measure(config, args.compile)
  else:
    result = benchmark.measure(config, args.repeats)
  show = abstract_table if args.abstract else table
  print(json.dumps(result) if args.json else show(result))
  return 0


def table(result: dict) -> str:
  """The result as lines a person reads."""
  step, samples = result["step_ms"], result["sample_ms"]
  ratios = result["flops_in_forwards"]
  mfu = "not known here" if result["mfu"] is None else f"{result['mfu']:.1%}"
  lines = {
    "device": f"{result['devices']} x {result['device']}",
    "config": result["config"],
    "parameters": f"{result['params'] / 1e6:.2f} M",
    "FLOPs": f"{result['flops']['forward']:.3g} forward, "
    f"{result['flops']['step']:.3g} step",
    "step in forwards": ", ".join(
      f"{name} {ratio:.2f}" for name, ratio in ratios.items()
    ),
    "step": f"{step['median']:.1f} ms (10 %: {step['p10']:.1f}, "
    f"90 %: {step['p90']:.1f}), {result['images_per_second']:.0f} images/s",
    "one image": f"1 step {samples['1']:.1f} ms, 2 steps {samples['2']:.1f} "
    f"ms, teacher {samples['teacher']:.1f} ms",
    "memory": f"{(result['peak_bytes'] or 0) / 2**20:.0f} MiB",
    "MFU": mfu,
  }
  return _aligned(lines)


def abstract_table(result: dict) -> str:
  """Likewise of `--abstract`."""
  flops, sizes = result["flops"], result["argument_bytes"]
  gib = lambda count: f"{count / 2**30:.2f} GiB"
  lines = {
    "config": result["config"],
    "parameters": f"{result['params'] / 1e6:.2f} M",
    "FLOPs": f"{flops['forward']:.3g} forward, {flops['step']:.3g} step "
    f"({flops['step'] / flops['forward']:.2f} forwards)",
    "arguments": f"{gib(sum(sizes.values()))}: "
    + ", ".join(f"{name} {gib(count)}" for name, count in sizes.items()),
  }
  if result["peak_bytes"]:
    lines["peak memory"] = gib(result["peak_bytes"])
  return _aligned(lines)


def _aligned(lines: dict[str, str]) -> str:
  width = max(map(len, lines))
  return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())
