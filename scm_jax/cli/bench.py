"""`scm-jax bench`: what a config costs on the devices here."""

import argparse

from scm_jax.cli import configs, console
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax bench --config=configs/digits.py:run=scd
scm-jax bench --config=configs/digits.py:run=scd --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  configs.add_config_argument(parser)
  parser.add_argument(
    "--repeats", type=int, default=10, metavar="N", help="timed steps"
  )
  parser.add_argument(
    "--json", action="store_true", help="one JSON object instead of a table"
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Prints FLOPs, step times and sampling latencies."""
  config = configs.parse_config(config_argv)
  if args.repeats < 1:
    raise ConfigError(f"--repeats is {args.repeats}; it must be positive")
  console.start()

  import json

  from scm_jax.training import benchmark, build

  # A teacher's weights are random here, so that none need be named.
  if not config.teacher:
    config.teacher = "random"
  build.check(config)
  result = benchmark.measure(config, args.repeats)
  print(json.dumps(result) if args.json else table(result))
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
  width = max(map(len, lines))
  return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())
