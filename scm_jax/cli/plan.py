"""`scm-jax plan`: compiles a config for absent hardware, says what it needs."""

import argparse
import json

from scm_jax.cli import configs, console, flags
from scm_jax.errors import ConfigError

EXAMPLE = """\
scm-jax plan --config=configs/imagenet512.py:run=scd,size=xxl \\
    --target=a100-80gb:8x8
scm-jax plan --config=configs/imagenet512.py:run=scd,size=s --target=v5e:4x4 \\
    --search
scm-jax plan --config=configs/digits.py:run=scd --target=cpu:8 --json
scm-jax plan --config=configs/imagenet512.py:run=scd,size=xxl --target=h200 \\
    --sample --steps=2"""

FLAGS = {
  "config": configs.FLAGS,
  "--target=KIND:TOPOLOGY": "a100-40gb, a100-80gb, h100-80gb or h200:"
  "HOSTSxDEVICES; v5e or v6e:XxY; v5p:XxYxZ; cpu:N",
  "--search": "find the fastest mesh, microbatches and remat policy that fit, "
  "with the config's global batch",
  "--sample": "compile the sampler for one device instead; --target needs no "
  "topology",
  "--steps=N": "of the sampler; default that of the run's kind",
  "--batch=N": "images that the sampler draws at once; default 1",
  "--host-gbps=GBPS": "Gb/s of the network of a GPU host; default a DGX's",
  **flags.JSON,
}
add_arguments = flags.adder(FLAGS, ["target"])


def run(args: argparse.Namespace, config_argv: list[str]) -> None:
  """Compiles for the target and prints what the program needs."""
  from scm_jax.planning import plan, sampling, search, targets

  flags.check(args, "steps", "batch", least=1)
  if args.sample and args.search:
    raise ConfigError("--search plans trainings, and --sample a sampler")
  if (args.steps or args.batch) and not args.sample:
    raise ConfigError("--steps and --batch are of a sampler; add --sample")
  target = targets.parse(args.target, one=args.sample)
  config = configs.parse_config(config_argv)
  if args.host_gbps is not None:
    target = target.with_network(args.host_gbps)

  # Only a teacher's shapes are needed, so that the config need not name one.
  config.teacher = config.teacher or "random"
  if args.sample:
    result = sampling.plan(config, target, args.steps, args.batch or 1)
    print(json.dumps(result) if args.json else sampling_table(result))
    return
  ask = search.search if args.search else plan.plan
  result = ask(config, target)
  print(json.dumps(result) if args.json else table(result))


def table(result: dict) -> str:
  """Returns the result as lines for a terminal."""
  mesh = ", ".join(f"{axis} {size}" for axis, size in result["mesh"].items())
  usable, device = _bytes(result["usable_bytes"]), result["device_bytes"]
  images = result["global_batch"] // result["devices"]
  lines = {
    "target": f"{result['target']}, {result['devices']} devices",
    "run": f"mesh {mesh}; batch {result['global_batch']}, {images} a device in "
    f"{result['microbatches']} microbatch(es); remat {result['remat']}",
    "parameters": f"{result['params'] / 1e6:.2f} M",
    "fits": f"yes, in {usable} of {_bytes(device)}"
    if result["fits"]
    else f"NO: a program can use {usable}; try --search",
    "memory a device": _bytes(result["peak_bytes_per_device"]),
  }
  for name, count in result["memory"].items():
    label = "activations, gradients" if name == "rest" else name
    lines[f"  {label}"] = _bytes(count)
  flops, forwards = result["flops_per_step"], result["flops_in_forwards"]
  lines["FLOPs of a step"] = f"{flops:.3g}, {forwards:.2f} forward passes"
  sent = _bytes(result["collective_bytes_per_step"])
  minimum = _bytes(result["minimum_collective_bytes_per_step"])
  lines["sent by a device"] = f"{sent} a step; {minimum} if no two passes share"
  for kind, count in (result["collectives"] or {}).items():
    sent = _bytes(result["collective_bytes"][kind])
    lines[f"  {kind}"] = f"{sent} in {count}"
  total = result["collective_bytes_per_step"]
  overlapped = result["overlapped_collective_bytes"]
  if total and overlapped is not None:
    beside = result["collective_bytes_beside_products"]
    lines["  while it computes"] = (
      f"{_bytes(overlapped)}, {overlapped / total:.0%}; "
      f"{_bytes(beside)} beside convolutions and products"
    )
  involuntary = str(result["involuntary_rematerializations"])
  lines["involuntary full rematerializations"] = involuntary
  lines["compiled in"] = f"{result['compile_seconds']:.0f} s"
  lines |= _times(result["estimate"]) if result["estimate"] else {}
  lines |= _search(result["search"]) if "search" in result else {}
  return console.aligned(lines)


def sampling_table(result: dict) -> str:
  """Returns what a sampler needs as lines for a terminal."""
  moved, least = result["bytes_moved"], result["least_bytes"]
  usable = _bytes(result["device_bytes"])
  lines = {
    "target": f"{result['target']}, one device",
    "sampler": f"{result['kind']}, {result['steps']} steps, "
    f"{result['evaluations']} evaluations, {result['batch']} image(s), "
    f"{result['dtype']}",
    "parameters": f"{result['params'] / 1e6:.2f} M, "
    f"{_bytes(result['parameter_bytes'])} as an evaluation reads them",
    "bytes read and written": f"{_bytes(moved)}, {moved / least:.2f} times "
    f"{_bytes(least)}, the operands and results of all products",
    "passes over weights alone": f"{result['weight_kernels']} kernels that "
    f"write {_bytes(result['weight_kernel_bytes'])}",
    "kernels": f"{result['kernels']}: {result['library_calls']} library calls, "
    f"{result['fusions']} fusions",
    "FLOPs": f"{result['flops']:.3g}",
    "memory": f"{_bytes(result['peak_bytes'])} of {usable}, temporaries "
    f"{_bytes(result['temp_bytes'])}",
    "compiled in": f"{result['compile_seconds']:.0f} s",
  }
  if result["floor_ms"]:
    lines["latency"] = (
      f"{result['predicted_ms']:.2f} ms predicted, "
      f"{result['floor_ms']:.2f} ms at least"
    )
  return console.aligned(lines)


def _times(estimate: dict) -> dict[str, str]:
  """Returns lines about times and costs, and what they assume."""
  lines = {
    "a step": f"{estimate['step_seconds']:.2f} s: "
    f"compute {estimate['compute_seconds']:.2f}, "
    f"update {estimate['update_seconds']:.2f}, "
    f"communication {estimate['communication_seconds']:.2f}; "
    f"{estimate['step_seconds_overlapped']:.2f} s if they overlap",
    "the run": f"{estimate['days']:.1f} days, "
    f"{estimate['device_hours']:,.0f} device-hours for "
    f"{estimate['total_images'] / 1e6:,.0f} M images",
    "weak scaling": ", ".join(
      f"{n}: {row['serial']:.0%} ({row['overlapped']:.0%} overlapped)"
      for n, row in estimate["weak_scaling"].items()
    ),
  }
  for i, text in enumerate(estimate["assumptions"]):
    lines["assumptions" if i == 0 else " " * i] = text
  return lines


def _search(search: dict) -> dict[str, str]:
  """Returns lines about the best flags, and about all that were tried."""
  lines = {"run it with": " ".join(search["flags"])}
  for i, row in enumerate(search["tried"]):
    verdict = "fits" if row["fits"] else "does not fit"
    short = " ".join(flag.removeprefix("--config.") for flag in row["flags"])
    peak = _bytes(row["peak_bytes_per_device"])
    lines[f"  tried {i + 1}"] = f"{short}: {peak}, {verdict}"
  return lines


def _bytes(count: float) -> str:
  """Returns bytes in a readable unit, such as `10.33 GB` or `73.50 MB`."""
  for unit, size in (("GB", 1e9), ("MB", 1e6)):
    if count >= size:
      return f"{count / size:.2f} {unit}"
  return f"{count / 1e3:.2f} kB"
