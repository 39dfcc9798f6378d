"""Checks at the start of a run whether its step fits into the device's memory.

The estimate takes seconds; a compiler needs minutes to run out of memory.
"""

import dataclasses
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from scm_jax import configuration
from scm_jax.defaults import Mesh, Run
from scm_jax.errors import ConfigError
from scm_jax.planning import memory, search, targets
from scm_jax.planning.targets import GB
from scm_jax.training import offload, resolve, sharding
from scm_jax.training.sharding import DATA, FSDP

# A step that needs this many times the device's memory cannot fit, whatever the
# error of the estimate.
CLEARLY = 1.25
# The fraction of the memory that suggested flags leave free for that error.
_FREE = 0.1
# Passes of fewer images do not keep a device busy.
_SMALL_PASS = 16


def check(config: ConfigDict) -> None:
  """Logs a warning if a step may not fit into the memory of the devices here.

  Does nothing if their memory is unknown, as for CPUs.

  Raises:
    ConfigError: the step clearly does not fit and `config.memory_check` is
      "stop", or the config is invalid.
  """
  device = jax.local_devices()[0]
  limit = capacity(device)
  if limit is None or config.memory_check == "off":
    return
  run = resolve.check(config)
  mesh = sharding.make_mesh(run).shape
  step = memory.Step(run, device.platform)
  need = step.need(run, mesh[DATA], mesh[FSDP])
  if need.total <= limit:
    return
  remedy = "no flags make it fit; use more or larger devices"
  if found := suggestion(run, step, (mesh[DATA], mesh[FSDP]), limit):
    flags, less = found
    remedy = f"run it with {' '.join(flags)} (about {less.total / GB:.1f} GB)"
  message = f"{_shortage(need, limit, device.device_kind)}; {remedy}"
  if need.total > CLEARLY * limit and run.memory_check == "stop":
    raise ConfigError(f"{message}; --config.memory_check=warn starts it anyway")
  logging.warning("%s", message)


def capacity(device: Any) -> int | None:
  """Returns the bytes that a program can use on a device, None if unknown."""
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    return stats["bytes_limit"]
  card = targets.card_here(device.device_kind)
  return int(card.memory * card.usable) if card else None


def suggestion(
  config: Run, step: memory.Step, sizes: tuple[int, int], limit: int
) -> tuple[list[str], memory.Need] | None:
  """Returns the cheapest flags with which a step fits, and its need then.

  They change a mesh of `sizes` (data, fsdp) and leave a tenth of the `limit`,
  the bytes of a device, free. Returns None if there are none.
  """
  devices, room = sizes[0] * sizes[1], (1 - _FREE) * limit
  for other, fsdp in _ways(config, devices, sizes[1]):
    need = step.need(other, devices // fsdp, fsdp)
    if need.total <= room:
      return _flags(config, other), need
  return None


def _ways(config: Run, devices: int, fsdp: int) -> Iterator[tuple[Run, int]]:
  """Yields ways to run a config, each with its `fsdp`, the cheapest first.

  Microbatches and sharding cost communication, which mostly overlaps
  computation; a teacher in float16 costs precision; rematerialization costs a
  sixth of a step or more; an offloaded state is moved twice a step.
  """
  images = config.batch_size // devices
  start = images // sharding.microbatches(config, devices)
  passes = [n for n in range(start, 0, -1) if images % n == 0]
  large = [n for n in passes if n >= _SMALL_PASS] or passes[:1]
  shards = [n for n in range(fsdp, devices + 1) if devices % n == 0]
  policies = search.REMAT[search.REMAT.index(config.network.remat) :]
  teachers = dict.fromkeys((config.teacher_dtype, "float16"))
  rests = dict.fromkeys((config.offload, ("averages",), tuple(offload.GROUPS)))
  for counts in (large, passes[len(large) :]):
    for rest, policy, dtype, count, size in itertools.product(
      rests, policies, teachers, counts, shards
    ):
      network: dict[str, Any] = {"remat": policy}
      changes: dict[str, Any] = {"offload": rest, "teacher_dtype": dtype}
      changes["network"] = dataclasses.replace(config.network, **network)
      if count != start:
        changes |= {"microbatches": 0, "images_per_pass": count}
      if size != fsdp:
        changes["mesh"] = Mesh(data=-1, fsdp=size)
      yield dataclasses.replace(config, **changes), size


def _flags(config: Run, other: Run) -> list[str]:
  """Returns the flags that turn one config into the other."""
  old, new = (
    configuration.flatten(dataclasses.asdict(run)) for run in (config, other)
  )
  shown = lambda value: f'"{value}"' if isinstance(value, tuple) else value
  return [
    f"--config.{path}={shown(value)}"
    for path, value in new.items()
    if value != old[path]
  ]


def _shortage(need: memory.Need, limit: int, kind: str) -> str:
  """Returns how much memory the step needs, and how much a device has."""
  parts = ", ".join(
    f"{name} {count / GB:.1f}" for name, count in need._asdict().items()
  )
  text = (
    f"a step needs about {need.total / GB:.1f} GB of each device ({parts}), "
    f"but a program can use {limit / GB:.1f} GB of this {kind}"
  )
  card = targets.card_here(kind)
  # JAX takes three quarters of a GPU unless it is told otherwise.
  if (
    card and card.platform == "gpu" and limit < 0.9 * card.usable * card.memory
  ):
    text += f" (more with XLA_PYTHON_CLIENT_MEM_FRACTION={card.usable:g})"
  return text
