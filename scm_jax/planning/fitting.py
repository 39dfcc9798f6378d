"""At the start of a run: whether its step fits, and what would make it.

Said before anything is compiled, because a compiler takes minutes to find out.
"""

import copy
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import jax

from scm_jax import configuration
from scm_jax.errors import ConfigError
from scm_jax.planning import memory, search, targets
from scm_jax.planning.targets import GB
from scm_jax.training import offload, resolve, sharding
from scm_jax.training.sharding import DATA, FSDP

# An estimate so many times what a device has is no error of the estimate.
CLEARLY = 1.25
# Of the memory, what the suggested flags leave free: the estimate's own error.
_FREE = 0.1
# Passes of fewer images leave a device idle for much of the time.
_SMALL_PASS = 16


def check(config: Any) -> None:
  """Compares what the step needs with the memory of the devices here.

  Says nothing if it fits, or if the memory is not known, as on CPUs.

  Raises:
    ConfigError: it clearly does not fit, and `config.memory_check` is "stop";
      or the config makes no run.
  """
  device = jax.local_devices()[0]
  limit = capacity(device)
  if limit is None or config.memory_check == "off":
    return
  resolve.check(config)
  mesh = sharding.make_mesh(config).shape
  step = memory.Step(config, device.platform)
  need = step.need(config, mesh[DATA], mesh[FSDP])
  if need.total <= limit:
    return
  found = suggestion(config, step, (mesh[DATA], mesh[FSDP]), limit)
  message = f"{_misfit(need, limit, device)}; {_way_out(found)}"
  if need.total > CLEARLY * limit and config.memory_check == "stop":
    raise ConfigError(f"{message}; --config.memory_check=warn tries it anyway")
  logging.warning("%s", message)


def capacity(device: Any) -> int | None:
  """Bytes that a program can have on a device; None if that is not known."""
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    return stats["bytes_limit"]
  card = targets.card_here(device.device_kind)
  return int(card.memory * card.usable) if card else None


def suggestion(
  config: Any, step: memory.Step, sizes: tuple[int, int], limit: int
) -> tuple[list[str], memory.Need] | None:
  """The flags with which a step fits at the least cost, and its need then.

  Args:
    config: of the run.
    step: of it.
    sizes: of its mesh: data, fsdp.
    limit: bytes of a device.

  Returns:
    None if nothing makes it fit and leaves a tenth of the memory free.
  """
  devices, room = sizes[0] * sizes[1], (1 - _FREE) * limit
  for other, fsdp in _ways(config, devices, sizes[1]):
    need = step.need(other, devices // fsdp, fsdp)
    if need.total <= room:
      return _flags(config, other), need
  return None


def _ways(config: Any, devices: int, fsdp: int) -> Iterator[tuple[Any, int]]:
  """Ways to run a config, each with its `fsdp`, the cheapest first.

  Microbatches and shards cost communication, which mostly hides behind
  computation; a teacher in float16 costs digits; computing activations again
  costs a sixth of a step or more; a state that rests on the host is moved
  twice a step.
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
      other = copy.deepcopy(config)
      other.update(offload=rest, teacher_dtype=dtype)
      other.network.remat = policy
      if count != start:
        other.update(microbatches=0, images_per_pass=count)
      if size != fsdp:
        other.mesh.update(data=-1, fsdp=size)
      yield other, size


def _flags(config: Any, other: Any) -> list[str]:
  """Those that make the one config the other."""
  old, new = configuration.flatten(config), configuration.flatten(other)
  return [
    f"--config.{path}={_shown(new[path])}"
    for path in new
    if new[path] != old[path]
  ]


def _shown(value: Any) -> str:
  return f'"{value}"' if isinstance(value, tuple) else str(value)


def _misfit(need: memory.Need, limit: int, device: Any) -> str:
  """What is needed, and what there is."""
  parts = ", ".join(
    f"{name} {count / GB:.1f}" for name, count in need._asdict().items()
  )
  kind = device.device_kind
  text = (
    f"a step needs about {need.total / GB:.1f} GB of each device ({parts}), "
    f"and a program can have {limit / GB:.1f} GB of this {kind}"
  )
  card = targets.card_here(kind)
  if (
    card and card.platform == "gpu" and limit < 0.9 * card.usable * card.memory
  ):
    # JAX takes three quarters of a GPU unless it is told otherwise.
    text += f" (more with XLA_PYTHON_CLIENT_MEM_FRACTION={card.usable:g})"
  return text


def _way_out(found: tuple[list[str], memory.Need] | None) -> str:
  if found is None:
    return "nothing makes it fit; take more devices, or larger ones"
  flags, need = found
  return f"run it with {' '.join(flags)} (about {need.total / GB:.1f} GB)"
