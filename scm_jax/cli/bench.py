"""`scm-jax bench`: measures a config's speed and memory on the devices here."""

import argparse
from typing import TYPE_CHECKING

from scm_jax.cli import configs, console, platforms
from scm_jax.errors import ConfigError

if TYPE_CHECKING:
  from scm_jax.training.benchmarks import sampling

EXAMPLE = """\
scm-jax bench --config=configs/digits.py:run=scd
scm-jax bench --config=configs/digits.py:run=scd --json
scm-jax bench --config=configs/imagenet512.py:run=scd,size=xxl --abstract"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  configs.add_config_argument(parser)
  parser.add_argument(
    "--repeats",
    type=int,
    default=10,
    metavar="N",
    help="how many steps are timed; default 10",
  )
  parser.add_argument(
    "--sample-batch",
    type=int,
    default=64,
    metavar="N",
    help="how many images are drawn at once to measure the samplers' "
    "throughput; default 64",
  )
  parser.add_argument(
    "--abstract",
    action="store_true",
    help="count FLOPs and bytes from shapes, for configs of any size, and run "
    "nothing",
  )
  parser.add_argument(
    "--compile",
    action="store_true",
    help="with --abstract: also compile here, to find the peak memory",
  )
  parser.add_argument(
    "--json", action="store_true", help="one JSON object instead of a table"
  )


def run(args: argparse.Namespace, config_argv: list[str]) -> int:
  """Prints FLOPs, step times and sampling latencies."""
  config = configs.parse_config(config_argv)
  if args.compile and not args.abstract:
    raise ConfigError(
      "--compile needs --abstract; without it, bench always compiles"
    )
  for flag, value in (
    ("--repeats", args.repeats),
    ("--sample-batch", args.sample_batch),
  ):
    if value < 1:
      raise ConfigError(f"{flag} is {value}; it must be positive")
  console.start()
  platforms.announce()

  import json

  from scm_jax.training import resolve
  from scm_jax.training.benchmarks import train_step

  # The teacher's weights are random, so that the config need not name one.
  if not config.teacher:
    config.teacher = "random"
  resolve.check(config)
  if args.abstract:
    result = train_step.count(config, args.compile)
  else:
    rates = _rates()
    result = train_step.measure(config, args.repeats, rates, args.sample_batch)
  show = abstract_table if args.abstract else table
  print(json.dumps(result) if args.json else show(result))
  return 0


def _rates() -> "sampling.Rates | None":
  """Returns the published rates of the devices here, None if unknown."""
  import jax

  from scm_jax.planning import targets
  from scm_jax.training.benchmarks import sampling

  card = targets.card_here(jax.devices()[0].device_kind)
  if card is None or not card.flops:
    return None
  return sampling.Rates(card.flops, card.bandwidth)


def table(result: dict) -> str:
  """Returns the result as lines for a terminal."""
  step, samples = result["step_ms"], result["sample_ms"]
  ratios = result["flops_in_forwards"]
  mfu = "unknown for this device"
  if result["mfu"] is not None:
    mfu = f"{result['mfu']:.1%}, with recomputation {result['hfu']:.1%}"
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
    **{
      f"{steps} step{'s'[: steps - 1]}": _sampling(result["sampling"], steps)
      for steps in (1, 2)
    },
    "teacher": f"one image in {samples['teacher']:.2f} ms",
    "memory": f"{(result['peak_bytes'] or 0) / 2**20:.0f} MiB",
    "MFU": mfu,
  }
  return _aligned(lines)


def _sampling(sampling: dict, steps: int) -> str:
  """Returns a student's latency and throughput, and their limits if known."""
  found = sampling[str(steps)]
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
  return _aligned(lines)


def _gib(count: int) -> str:
  return f"{count / 2**30:.2f} GiB"


def _aligned(lines: dict[str, str]) -> str:
  width = max(map(len, lines))
  return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())
