"""Measuring how long a sample takes, beside the least that hardware allows.

Weights are random, and the network computes as in training, as `scm_jax.load`
has it by default: an evaluation reads them folded (`Sampler.ready`). One device
draws, without an autoencoder.
"""

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from scm_jax import networks
from scm_jax.defaults import Run
from scm_jax.interop import export_folder
from scm_jax.objectives import OBJECTIVES
from scm_jax.sampler import Sampler
from scm_jax.training import resolve

STEPS = (1, 2)  # of the consistency model


class Rates(NamedTuple):
  """What a device does in a second, according to its maker.

  Attributes:
    flops: floating-point operations in bfloat16.
    bandwidth: bytes that move between memory and cores.
  """

  flops: float
  bandwidth: float


def measure(
  config: ConfigDict,
  flops: float,
  rates: Rates | None,
  repeats: int,
  batch: int,
) -> tuple[dict[str, float], dict[str, Any]]:
  """Returns the objects `sample_ms` and `sampling` of `bench --json`.

  Args:
    config: any run's config.
    flops: the operations of one network evaluation for one image.
    rates: the device's rates; None leaves the floors null.
    repeats: the number of timed calls.
    batch: the number of images drawn at once to measure throughput.
  """
  student = random_sampler(config, "consistency", batch)
  teacher = random_sampler(config, "diffusion")
  size = parameter_bytes(student.ready.params)
  about: dict[str, Any] = {
    "batch": batch,
    "parameter_bytes": size,
    "flops_per_evaluation": flops,
  }
  latencies = {}
  for steps in STEPS:
    latency = median_ms(student, 1, steps, repeats)
    each = median_ms(student, batch, steps, repeats)
    floors = [floor_ms(n, steps, size, flops, rates) for n in (1, batch)]
    about[str(steps)] = {
      "ms": latency,
      "floor_ms": floors[0],
      "images_per_second": 1e3 * batch / each,
      "images_per_second_limit": floors[1] and 1e3 * batch / floors[1],
    }
    latencies[str(steps)] = latency
  solver = config.sample.solver_steps
  latencies["teacher"] = median_ms(teacher, 1, solver, repeats)
  return latencies, about


def floor_ms(
  batch: int, evaluations: int, size: int, flops: float, rates: Rates | None
) -> float | None:
  """Returns the time in ms that memory or arithmetic takes at least.

  Args:
    batch: the number of images drawn at once.
    evaluations: the number of network evaluations, each of which reads all
      parameters.
    size: the bytes of the parameters.
    flops: the operations of one evaluation for one image.
    rates: the device's rates; None has no floor.
  """
  if rates is None:
    return None
  memory, compute = size / rates.bandwidth, batch * flops / rates.flops
  return 1e3 * evaluations * max(memory, compute)


def random_sampler(config: ConfigDict, kind: str, batch: int = 256) -> Sampler:
  """Returns a sampler of the config's network with random weights."""
  config = config.copy_and_resolve_references()
  if OBJECTIVES[config.run].kind != kind:
    config.run = next(n for n, spec in OBJECTIVES.items() if spec.kind == kind)
  run = resolve.resolve(config)
  sampler = dataclasses.replace(without_weights(run), batch_size=batch)
  return dataclasses.replace(sampler, params=_random_params(sampler.network))


def without_weights(run: Run) -> Sampler:
  """Returns the sampler of a run's network, which has no parameters yet."""
  sampler = Sampler(
    network=networks.build(run.network),
    params=None,
    codec=run.codec,
    kind=run.spec.kind,
    t_mid=run.sample.t_mid,
    sigma_max=run.sample.sigma_max,
    solver=run.sample.solver,
    solver_steps=run.sample.solver_steps,
    unconditional=bool(run.objective.label_dropout),
  )
  return export_folder.as_computed(sampler)


def _random_params(network: networks.Network) -> Any:
  """Draws normal weights, all in one program."""
  key = jax.random.key(0)
  leaves, tree = jax.tree.flatten(jax.eval_shape(network.init, key))

  def draw():
    return [
      jax.random.normal(k, leaf.shape, leaf.dtype)
      for k, leaf in zip(
        jax.random.split(key, len(leaves)), leaves, strict=True
      )
    ]

  return jax.tree.unflatten(tree, jax.jit(draw)())


def parameter_bytes(params: Any) -> int:
  """Returns the size of parameters without the weighting head's, in bytes."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(params["denoiser"]))


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
