"""The page that shows all results, in Markdown."""

from collections.abc import Iterable
from typing import Any

from scm_jax.acceptance import parts
from scm_jax.acceptance.record import Record

FILE = "accelerator.md"


def page(book: Record, names: Iterable[str]) -> str:
  """Returns the page of the parts that were asked for, in their order."""
  names = list(names)
  sections = [
    "# On the accelerator",
    _machine(book.results("machine")),
    "## Checks",
    _checks(book, names),
    "## Sampling",
    "Milliseconds from the seed to images on the host, without an autoencoder; "
    "of a call that queues behind others; until a call returns to Python; and "
    "the least that the device's rates allow.",
    _sampling(book, names),
    "## Train steps",
    "One pass on one device. MFU leaves out recomputation, HFU counts it.",
    _steps(book, names),
    "## Layers",
    "Milliseconds of each convolution and product of the network by itself, in "
    "brackets PyTorch's, and of all its passes in a step.",
    _layers(book.results("layers")),
    "## The main job on digits",
    _digits(book.results("digits")),
    "## All parts",
    _states(book, names),
  ]
  return "\n\n".join(section for section in sections if section) + "\n"


def mfu(step: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
  """Returns MFU and HFU of a step, None where they are not known."""
  counts = {"mfu": expected.get("model"), "hfu": expected.get("step")}
  peak = expected.get("peak")
  return {
    name: count / (step["ms"] / 1e3) / peak if count and peak else None
    for name, count in counts.items()
  }


def _machine(results: dict[str, Any]) -> str:
  device, lines = results.get("device"), []
  if device:
    memory = _scaled(device["memory_bytes"], 2**30, "GiB")
    lines.append(f"{device['count']} x {device['kind']}, memory {memory}")
  if "driver" in results:
    lines.append(f"nvidia-smi: {results['driver']}")
  if "versions" in results:
    lines.append(", ".join(f"{k} {v}" for k, v in results["versions"].items()))
  if found := results.get("product"):
    rate, limit = (_scaled(found[k], 1e12, "TFLOP/s") for k in found)
    lines.append(f"a bfloat16 product: {rate} of {limit}")
  if found := results.get("copy"):
    rate, limit = (_scaled(found[k], 1e9, "GB/s") for k in found)
    lines.append(f"reading and writing memory: {rate} of {limit}")
  return "\n".join(f"- {line}" for line in lines)


def _checks(book: Record, names: list[str]) -> str:
  words = {True: "passed", False: "FAILED", None: "not compared"}
  rows = []
  for name in names:
    for key, value in book.results(name).items():
      if not isinstance(value, dict) or "passed" not in value:
        continue
      limits = value.get("limit", {})
      parts_ = [
        f"{part} {distance:.2g} ({limits[part]:.2g})"
        for part, distance in value.get("distance", {}).items()
      ]
      details = ", ".join(parts_) or value.get("why", "")
      rows.append([key, words[value["passed"]], details])
  return _table(["check", "result", "distance (limit)"], rows)


def _sampling(book: Record, names: list[str]) -> str:
  rows = []
  for name in names:
    if parts.PARTS[name].module != parts.SAMPLING:
      continue
    for key, found in book.results(name).items():
      ms, floor = found["ms"], found["floor_ms"]
      rows.append(
        [
          parts.PARTS[name].options["size"].upper(),
          key,
          f"{ms:.2f}",
          f"{found['queued_ms']:.2f}" if "queued_ms" in found else "",
          f"{found['host_ms']:.2f}" if "host_ms" in found else "",
          f"{floor:.2f}" if floor else "",
          f"{ms / floor:.1f}" if floor else "",
          f"{1e3 * found['images'] / ms:.0f}",
        ]
      )
  head = ["size", "what", "ms", "queued", "host", "floor"]
  return _table([*head, "times the floor", "images/s"], rows)


def _steps(book: Record, names: list[str]) -> str:
  rows = []
  for name in names:
    results = book.results(name)
    if parts.PARTS[name].module != parts.STEPS or "step" not in results:
      continue
    step, expected = results["step"], results.get("expected", {})
    rates = mfu(step, expected)
    rows.append(
      [
        parts.PARTS[name].title.removeprefix("Train step of "),
        f"{step['images']}, {step['dtype']}, remat {step['remat']}",
        f"{step['ms']:.1f}",
        f"{expected['ms']:.1f}" if expected.get("ms") else "",
        f"{1e3 * step['images'] / step['ms']:.1f}",
        *(f"{rate:.1%}" if rate else "" for rate in rates.values()),
        _scaled(step["used_bytes"] or step["peak_bytes"], 1e9, "GB"),
        _scaled(expected.get("bytes"), 1e9, "GB"),
      ]
    )
  head = ["run", "images", "ms", "planned", "images/s", "MFU", "HFU"]
  return _table([*head, "memory", "planned"], rows)


def _layers(results: dict[str, Any]) -> str:
  rows = []
  for found in sorted(results.values(), key=lambda row: -row["step_ms"])[:20]:
    shapes = " * ".join("x".join(map(str, s)) for s in found["shapes"])
    torch = found["pytorch_ms"] or {}
    times = [
      f"{ms:.3f}" + (f" ({torch[name]:.3f})" if name in torch else "")
      for name, ms in found["ms"].items()
    ]
    what = f"{found['kind']} {shapes}, {found['dtype']}"
    rows.append([what, str(found["count"]), *times, f"{found['step_ms']:.2f}"])
  head = ["layer", "count", "forward", "tangent", "by input", "by weight"]
  return _table([*head, "in a step"], rows)


def _digits(results: dict[str, Any]) -> str:
  commands, models = [], []
  for name, found in results.items():
    if "seconds" in found:
      compiled = f"{found['compilations']} in {found['compile_seconds']:.0f} s"
      commands.append([name, f"{found['seconds']:.0f}", compiled])
    else:
      distances = found["frechet_distance"].items()
      models.append([name, ", ".join(f"{k} {v:.4g}" for k, v in distances)])
  tables = [_table(["command", "seconds", "compilations"], commands)]
  if models:
    tables.append(_table(["model", "Fréchet distance"], models))
  return "\n\n".join(tables)


def _states(book: Record, names: list[str]) -> str:
  rows = []
  for name in names:
    part = book.parts.get(name, {"state": "not begun", "seconds": 0.0})
    part_row = [name, parts.PARTS[name].title, part["state"]]
    rows.append([*part_row, f"{part['seconds']:.0f}", part.get("why", "")])
  return _table(["name", "part", "state", "seconds", "why"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
  if not rows:
    return "Nothing yet."
  clean = lambda cell: cell.replace("|", "/").replace("\n", " ")
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join(f"| {' | '.join(map(clean, line))} |" for line in lines)


def _scaled(value: float | None, unit: float, name: str) -> str:
  return f"{value / unit:.1f} {name}" if value else "unknown"
