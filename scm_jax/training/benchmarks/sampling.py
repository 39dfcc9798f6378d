"""Measuring how long a sample takes, beside the least that hardware allows.

Weights are random, and the network computes as in training, as `scm_jax.load`
has it by default: an evaluation reads them folded (`Sampler.ready`). One device
draws, without an autoencoder.
"""

import dataclasses
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scm_jax.defaults import Run
from scm_jax.interop import export_folder
from scm_jax.networks.folding import GPUS
from scm_jax.objectives import OBJECTIVES
from scm_jax.sampler import Sampler
from scm_jax.training import resolve, sharding

if TYPE_CHECKING:
  from ml_collections import ConfigDict

STEPS = (1, 2)  # of the consistency model


class Rates(NamedTuple):
  """What a device does in a second, according to its maker.

  `flops` are floating-point operations in bfloat16, `bandwidth` bytes that move
  between memory and cores.
  """

  flops: float
  bandwidth: float


def measure(
  config: "ConfigDict",
  flops: float,
  rates: Rates | None,
  repeats: int,
  batch: int,
) -> tuple[dict[str, float], dict[str, Any]]:
  """Returns the objects `sample_ms` and `sampling` of `bench --json`.

  One network evaluation for one image takes `flops` operations. Without the
  device's rates the floors are null. `repeats` calls are timed; throughput is
  that of `batch` images drawn at once.
  """
  student = _random_sampler(config, "consistency", batch)
  teacher = _random_sampler(config, "diffusion", 1)
  size = parameter_bytes(student.ready.params)
  about: dict[str, Any] = {
    "batch": batch,
    "parameter_bytes": size,
    "flops_per_evaluation": flops,
  }
  latencies = {}
  single = dataclasses.replace(student, batch_size=1)
  for steps in STEPS:
    latency = median_ms(single, 1, steps, repeats)
    each = median_ms(student, batch, steps, repeats)
    least = floor_ms(batch, steps, size, flops, rates)
    about[str(steps)] = {
      "ms": latency,
      "floor_ms": floor_ms(1, steps, size, flops, rates),
      "images_per_second": 1e3 * batch / each,
      "images_per_second_limit": least and 1e3 * batch / least,
    }
    latencies[str(steps)] = latency
  solver = config.sample.solver_steps
  latencies["teacher"] = median_ms(teacher, 1, solver, repeats)
  return latencies, about


def floor_ms(
  batch: int, evaluations: int, size: int, flops: float, rates: Rates | None
) -> float | None:
  """Returns the time in ms that memory or arithmetic takes at least.

  Each evaluation reads all parameters, `size` bytes, and takes `flops`
  operations for each image of the batch. There is no floor where rates are not
  known.
  """
  if rates is None:
    return None
  memory, compute = size / rates.bandwidth, batch * flops / rates.flops
  return 1e3 * evaluations * max(memory, compute)


def _random_sampler(config: "ConfigDict", kind: str, batch: int) -> Sampler:
  """Returns a sampler of the config's network with random weights."""
  config = config.copy_and_resolve_references()
  if OBJECTIVES[config.run].kind != kind:
    config.run = next(n for n, spec in OBJECTIVES.items() if spec.kind == kind)
  run = resolve.resolve(config)
  sampler = dataclasses.replace(
    without_weights(run), guidance=1.0, batch_size=batch
  )
  shapes = sampler.network.shapes
  return dataclasses.replace(sampler, params=random_like(shapes))


def without_weights(run: Run) -> Sampler:
  """Returns the sampler of a run's network, which has no parameters yet."""
  return export_folder.as_computed(resolve.sampler(run, None))


def random_like(abstract: Any) -> Any:
  """Returns arrays of the shapes, types, shardings and layouts of a tree.

  They are drawn in one program: normal numbers, zeros where there are integers.
  """
  leaves, tree = jax.tree.flatten(abstract)

  def draw():
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return [
      jax.random.normal(key, leaf.shape, leaf.dtype)
      if jnp.issubdtype(leaf.dtype, jnp.floating)
      else jnp.zeros(leaf.shape, leaf.dtype)
      for leaf, key in zip(leaves, keys, strict=True)
    ]

  where = sharding.formats(leaves)
  return jax.tree.unflatten(tree, jax.jit(draw, out_shardings=where)())


def parameter_bytes(params: Any) -> int:
  """Returns the size of parameters without the weighting head's, in bytes."""
  leaves = jax.tree.leaves(params["denoiser"])
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def queued_ms(
  sampler: Sampler, batch: int, steps: int, repeats: int
) -> dict[str, float]:
  """Measures the time of a batch without what the host adds to it.

  Returns:
    `queued_ms`, the time of each of some calls that wait for the device in a
    row; and `host_ms`, the median time after which a call that nothing waits
    for returns to Python.
  """
  index, label = np.arange(batch), np.zeros(batch, np.int32)
  how = {
    "guidance": sampler.guidance_scales(None, steps),
    "to_host": sampler.platform in GPUS,  # the program of `Sampler.sample`
  }
  draw = lambda: sampler.draw(index, label, steps=steps, seed=0, **how)
  jax.block_until_ready(draw())  # compiles
  start = time.perf_counter()
  results = [draw() for _ in range(repeats)]
  jax.block_until_ready(results)
  queued = (time.perf_counter() - start) / repeats
  returned = []
  for _ in range(repeats):
    start = time.perf_counter()
    started = draw()
    returned.append(time.perf_counter() - start)
    jax.block_until_ready(started)
  host = float(np.median(returned))
  return {"queued_ms": 1e3 * queued, "host_ms": 1e3 * host}


def median_ms(sampler: Sampler, batch: int, steps: int, repeats: int) -> float:
  """Measures the time of one batch, from the seed to images on the host."""
  labels = 0 if sampler.network.config.num_classes else None
  seconds = []
  for i in range(repeats + 1):
    start = time.perf_counter()
    sampler.sample(labels, num=batch, steps=steps)
    if i:  # the first call compiles
      seconds.append(time.perf_counter() - start)
  return 1e3 * float(np.median(seconds))
