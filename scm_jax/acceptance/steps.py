"""Measures one objective's train step, beside what `scm-jax plan` predicts.

One device computes one pass of as many images as its memory holds, at most as
many as the config has in a pass.
"""

import gc
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from scm_jax.acceptance import runs
from scm_jax.acceptance.parts import Request
from scm_jax.defaults import Run
from scm_jax.errors import UserError
from scm_jax.planning import arithmetic, estimate, memory, targets
from scm_jax.planning.targets import Card, Target
from scm_jax.training import sharding
from scm_jax.training.benchmarks import train_step

IMAGES = (64, 32, 16, 8, 4)


def measure(request: Request) -> Iterator[tuple[str, Any]]:
  """Yields the measured step, then the operations and the prediction."""
  device = jax.devices()[0]
  card = targets.card_here(device.device_kind)
  options = request.options
  name = runs.imagenet(options["run"], options["size"], request.tiny)
  if device.platform == "tpu":
    name += ",on=tpu"

  def run_of(images: int) -> Run:
    fixed = {"batch_size": images, "microbatches": 1, "mesh.fsdp": 1}
    order = {"sharding.filter_order": options["filter_order"]}
    return runs.run(name, **fixed, **order)

  step = memory.Step(run_of(IMAGES[-1]), device.platform)
  images = IMAGES[-1:] if request.tiny else IMAGES
  if card:
    room = card.memory * card.usable
    needs = {n: step.need(run_of(n), 1, 1).total for n in images}
    images = [n for n in images if needs[n] <= room] or images[-1:]
  done = request.have.get("step")
  if done is None:
    for count in images:
      done = _timed(run_of(count), 2 if request.tiny else 8)
      if done is not None:
        if count != images[0]:  # it is that of an attempt that did not fit
          done["used_bytes"] = None
        yield "step", done
        break
      yield f"{count} images", {"why": "they do not fit into the memory"}
  if done is None:
    raise UserError(
      f"not even {images[-1]} images fit into the memory; does another process "
      "use the device?"
    )
  if "expected" in request.have:
    return
  run = run_of(done["images"])
  hardware, model = train_step.arithmetic(run)
  forward = train_step.forward_arithmetic(run)
  flops = {"step": hardware, "model": model, "forward": forward}
  yield "expected", flops | _predicted(run, card, flops, step)


def _timed(run: Run, repeats: int) -> dict[str, Any] | None:
  """Returns a step's times and memory; None if it does not fit."""
  start = time.perf_counter()
  try:
    found = train_step.time_step(run, repeats, jax.devices()[:1])
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    found = None
  if found is None:  # no longer in the handler, whose traceback holds arrays
    gc.collect()
    return None
  stats = jax.devices()[0].memory_stats() or {}
  low, middle, high = np.percentile(found["ms"], (10, 50, 90))
  return {
    "images": run.batch_size,
    "remat": run.network.remat,
    "dtype": np.dtype(run.network.dtype).name,
    "ms": float(middle),
    "p10": float(low),
    "p90": float(high),
    "params": found["params"],
    "peak_bytes": found["peak_bytes"],
    "used_bytes": stats.get("peak_bytes_in_use"),
    "seconds": time.perf_counter() - start,
  }


def _predicted(
  run: Run, card: Card | None, flops: dict[str, float], step: memory.Step
) -> dict[str, Any]:
  """Returns the memory and, where the device is known, the time of a step."""
  found = {"bytes": step.need(run, 1, 1).total, "ms": None, "peak": None}
  if card is None or not card.flops:
    return found
  mesh = sharding.abstract_mesh(1, 1)
  held = arithmetic.resident(arithmetic.arguments(run, mesh, step.shapes))
  target = Target("here", "", (1, 1), card)
  times = estimate.step_times(run, target, flops, held, [])
  assert times is not None  # the rates are known
  return found | {"ms": 1e3 * times.serial, "peak": card.flops}
