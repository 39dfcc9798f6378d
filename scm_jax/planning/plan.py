"""Makes the object that `scm-jax plan --json` prints."""

from typing import Any

from ml_collections import ConfigDict

from scm_jax.planning import compile as compiler
from scm_jax.planning import estimate
from scm_jax.planning.estimate import Traffic, total
from scm_jax.planning.targets import Target
from scm_jax.training import resolve, sharding


def plan(config: ConfigDict, target: Target) -> dict[str, Any]:
  """Compiles a config's train step for a target and reports what it needs.

  All bytes are those of one device: what it holds, and what it sends in a step
  (see `collectives`). FLOPs are those of the whole step with recomputation, as
  XLA counts them before its optimizations. Figures that a compiler that ran out
  of memory does not report are None.
  """
  answer = compiler.ask(config, target, compile=True, flops=True)
  compiled, flops = answer["compiled"], answer["flops"]
  minimum = _traffic(compiled["minimum"])
  # A compiler that ran out of memory reports no traffic.
  traffic = _traffic(compiled.get("traffic", compiled["minimum"]))
  resident = compiled["resident"]
  peak = compiled["peak_bytes"]
  card = target.card
  sent = {kind: 0 for kind in compiled.get("collectives", {})}
  for t in traffic:
    sent[t.kind] = sent.get(t.kind, 0) + round(t.bytes)
  return {
    "target": target.name,
    "devices": target.devices,
    "mesh": compiled["mesh"],
    "global_batch": config.batch_size,
    "microbatches": sharding.microbatches(config, target.devices),
    "remat": config.network.remat,
    "params": compiled["params"],
    "peak_bytes_per_device": peak,
    "argument_bytes_per_device": compiled.get("argument_bytes"),
    "temp_bytes_per_device": compiled.get("temp_bytes"),
    "aliased_bytes_per_device": compiled.get("aliased_bytes"),
    "memory": resident | {"rest": peak - sum(resident.values())},
    "device_bytes": card.memory,
    "usable_bytes": int(card.memory * card.usable),
    "fits": peak <= card.memory * card.usable and "traffic" in compiled,
    "flops_per_step": flops["step"],
    "flops_in_forwards": flops["step"] / flops["forward"],
    "collectives": compiled.get("collectives"),
    "collective_bytes_per_step": round(total(traffic)),
    "collective_bytes": sent,
    "minimum_collective_bytes_per_step": round(total(minimum)),
    "involuntary_rematerializations": compiled[
      "involuntary_rematerializations"
    ],
    "compile_seconds": compiled["compile_seconds"],
    "estimate": _estimate(config, target, answer, traffic, minimum),
  }


def _estimate(
  config: ConfigDict,
  target: Target,
  answer: dict[str, Any],
  traffic: list[Traffic],
  minimum: list[Traffic],
) -> dict[str, Any] | None:
  """Returns times and costs, or None where the target's rates are unknown."""
  resident = answer["compiled"]["resident"]
  state = sum(resident[k] for k in ("parameters", "moments", "averages"))
  counted = answer["flops"]["step"], answer["flops"]["forward"]
  run = resolve.resolve(config)
  weighted = estimate.weighted_flops(run, target.card, *counted)
  flops = weighted / target.devices
  times = estimate.times(target, flops, state, traffic)
  if times is None:
    return None
  # Only the minimum is known for other sizes. Assume that a compiled program
  # exceeds it by the same factor there.
  excess = total(traffic) / total(minimum) if minimum else 1.0

  def scaling(arithmetic):
    grown = [
      t._replace(bytes=t.bytes * excess)
      for t in _traffic(arithmetic["traffic"])
    ]
    there = estimate.times(target, flops, state, grown)
    assert there is not None  # the rates are known here
    return {
      "serial": there.efficiency(there.serial),
      "overlapped": there.efficiency(there.overlapped),
    }

  hours = config.total_steps * times.serial / 3600
  return {
    "step_seconds": times.serial,
    "step_seconds_overlapped": times.overlapped,
    "compute_seconds": times.compute,
    "update_seconds": times.update,
    "communication_seconds": times.communication,
    "total_images": config.total_steps * config.batch_size,
    "days": hours / 24,
    "device_hours": hours * target.devices,
    "weak_scaling": {
      str(n): scaling(arithmetic)
      for n, arithmetic in zip(
        estimate.DEVICES, answer["compiled"]["scaling"], strict=True
      )
    },
    "assumptions": estimate.assumptions(target),
  }


def _traffic(rows: list[dict[str, Any]]) -> list[Traffic]:
  return [Traffic(**row) for row in rows]
