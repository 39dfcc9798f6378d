"""Makes the object that `scm-jax plan --json` prints."""

import functools
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
  # A compiler that ran out of memory reports no traffic.
  traffic = _traffic(compiled.get("traffic", compiled["minimum"]))
  resident, peak = compiled["resident"], compiled["peak_bytes"]
  usable = target.card.memory * target.card.usable
  sent = dict.fromkeys(compiled.get("collectives", {}), 0)
  for t in traffic:
    sent[t.kind] = sent.get(t.kind, 0) + round(t.bytes)
  least = round(total(_traffic(compiled["minimum"])))
  replicated = "involuntary_rematerializations"
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
    "device_bytes": target.card.memory,
    "usable_bytes": int(usable),
    "fits": peak <= usable and "traffic" in compiled,
    "flops_per_step": flops["step"],
    "flops_in_forwards": flops["step"] / flops["forward"],
    "collectives": compiled.get("collectives"),
    "collective_bytes_per_step": round(total(traffic)),
    "collective_bytes": sent,
    "minimum_collective_bytes_per_step": least,
    "overlapped_collective_bytes": compiled.get("overlapped"),
    "collective_bytes_beside_products": compiled.get("beside_products"),
    replicated: compiled[replicated],
    "compile_seconds": compiled["compile_seconds"],
    "estimate": _estimate(config, target, answer, traffic),
  }


def _estimate(
  config: ConfigDict,
  target: Target,
  answer: dict[str, Any],
  traffic: list[Traffic],
) -> dict[str, Any] | None:
  """Returns times and costs, or None where the target's rates are unknown."""
  compiled, flops = answer["compiled"], answer["flops"]
  times_with = functools.partial(
    estimate.step_times,
    resolve.resolve(config),
    target,
    flops,
    compiled["resident"],
  )
  times = times_with(traffic)
  if times is None:
    return None
  # Only the minimum is known for other sizes. Assume that a compiled program
  # exceeds it by the same factor there.
  minimum = total(_traffic(compiled["minimum"]))
  excess = total(traffic) / minimum if minimum else 1.0
  scaling = {}
  for n, row in zip(estimate.DEVICES, compiled["scaling"], strict=True):
    least = _traffic(row["traffic"])
    grown = [t._replace(bytes=t.bytes * excess) for t in least]
    there = times_with(grown)
    assert there is not None  # the rates are known here
    scaling[str(n)] = {
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
    "weak_scaling": scaling,
    "assumptions": estimate.assumptions(target),
  }


def _traffic(rows: list[dict[str, Any]]) -> list[Traffic]:
  return [Traffic(**row) for row in rows]
