"""What the machine is, and what its largest device reaches on simple work."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scm_jax.acceptance.parts import Request
from scm_jax.errors import UserError
from scm_jax.planning import targets

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def measure(request: Request) -> Iterator[tuple[str, Any]]:
  """Yields the device, the versions, and two rates that it reaches.

  Raises:
    UserError: JAX runs on the CPU, which only the tiny form is for.
  """
  device = jax.devices()[0]
  memory = device.memory_stats() or {}
  yield (
    "device",
    {
      "kind": device.device_kind,
      "platform": device.platform,
      "count": jax.device_count(),
      "memory_bytes": memory.get("bytes_limit"),
    },
  )
  yield "versions", {name: metadata.version(name) for name in PACKAGES}
  if driver := _driver():
    yield "driver", driver
  if device.platform == "cpu" and not request.tiny:
    raise UserError(
      "JAX runs on the CPU here; install its build for the accelerator "
      "(launch/setup.sh does it), or give --tiny"
    )
  card = targets.card_here(device.device_kind)
  side, count = (256, 1 << 16) if request.tiny else (8192, 1 << 29)
  yield "product", {"flops": _product(side), "limit": card and card.flops}
  copied = {"bytes_per_second": _copy(count)}
  yield "copy", copied | {"limit": card and card.bandwidth}


def _driver() -> str | None:
  """Returns the name, driver and clocks that nvidia-smi reports."""
  if not shutil.which("nvidia-smi"):
    return None
  fields = "name,driver_version,memory.total,clocks.max.sm,power.limit"
  done = subprocess.run(
    ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
    capture_output=True,
    text=True,
    timeout=30,
  )
  return done.stdout.strip() or None


def _product(side: int) -> float:
  """Returns the operations a second of a square bfloat16 product."""
  a = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
  return 2 * side**3 / _seconds(jax.jit(lambda a: a @ a), a)


def _copy(count: int) -> float:
  """Returns the bytes a second that are read and written together."""
  x = jnp.zeros(count, jnp.float32)
  return 8 * count / _seconds(jax.jit(lambda x: x + 1), x)


def _seconds(f: Any, x: Any, repeats: int = 5, calls: int = 20) -> float:
  """Returns the seconds of one call of many that the device queues.

  A host that waits for each call adds its own time to it.
  """
  jax.block_until_ready(f(x))
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    for _ in range(calls - 1):
      f(x)  # its result is freed when the device is done with it
    jax.block_until_ready(f(x))
    times.append((time.perf_counter() - start) / calls)
  return float(np.median(times))
