"""Measures how fast one size of network draws, beside what the device allows.

Weights are random and in bfloat16, and latents are not decoded.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scm_jax import networks
from scm_jax.acceptance import runs
from scm_jax.acceptance.parts import Request
from scm_jax.interop import export_folder
from scm_jax.networks import folding
from scm_jax.planning import estimate, targets
from scm_jax.sampler import Sampler
from scm_jax.training import resolve
from scm_jax.training.benchmarks import sampling, train_step

DTYPE = "bfloat16"
GUIDANCE = 1.4  # any scale but 1 costs a teacher a second evaluation


class Case(NamedTuple):
  """What is drawn.

  Attributes:
    objective: of the network.
    batch: the number of images.
    steps: the number of steps; None is the sampler's own.
    products: whether all convolutions are products, whatever their size. Then
      none is cuDNN's, and all kernels can be in CUDA graphs.
  """

  objective: str
  batch: int
  steps: int | None
  products: bool = False


CASES = {
  "latency": (Case("scd", 1, 2), Case("scd", 1, 2, products=True)),
  "throughput": (
    Case("scd", 64, 2),
    Case("scd", 1, 1),
    Case("teacher", 1, None),
  ),
}


def measure(request: Request) -> Iterator[tuple[str, Any]]:
  """Yields the times of the option `what`, an entry of `CASES`, and floors."""
  size, tiny = request.options["size"], request.tiny
  one = runs.run(runs.imagenet("scd", size, tiny), batch_size=1)
  flops = train_step.forward_arithmetic(one)
  sampler, drawn_by = None, ""
  for case in CASES[request.options["what"]]:
    if sampler is None or case.objective != drawn_by:
      sampler = None  # the networks are large; no two are in memory at once
      sampler, drawn_by = _sampler(case.objective, size, tiny), case.objective
    steps = case.steps or sampler.steps
    name = f"{case.objective}, {steps} steps, batch {case.batch}"
    name += ", by products" * case.products
    if case.products:  # from here on: such cases are the last of a process
      folding.suits_product = lambda positions, channels: True
    if name not in request.have:
      given = dataclasses.replace(sampler, batch_size=case.batch)
      yield name, _measured(given, steps, flops, tiny)
      del given


def _measured(
  sampler: Sampler, steps: int, flops: float, tiny: bool
) -> dict[str, Any]:
  """Returns the time of one batch, and the least that it can take."""
  evaluations = sampler.evaluations(steps, sampler.guidance)
  repeats = 2 if tiny else max(3, 40 // evaluations)
  count = sampling.parameter_bytes(sampler.ready.params)
  rates = estimate.rates(targets.card_here(jax.devices()[0].device_kind))
  batch = sampler.batch_size
  return {
    "images": batch,
    "evaluations": evaluations,
    "ms": sampling.median_ms(sampler, batch, steps, repeats),
    **sampling.queued_ms(sampler, batch, steps, repeats),
    "floor_ms": sampling.floor_ms(batch, evaluations, count, flops, rates),
    "parameter_bytes": count,
    "flops_per_evaluation": flops,
  }


def _sampler(objective: str, size: str, tiny: bool) -> Sampler:
  """Returns a sampler of an objective's network with random weights."""
  run = runs.run(runs.imagenet(objective, size, tiny))
  average = sampling.random_like(networks.build(run.network).shapes)
  sampler = resolve.model(run, average)
  sampler = export_folder.as_computed(sampler, DTYPE)
  cast = lambda x: x.astype(jnp.dtype(DTYPE)) if x.ndim > 1 else x
  params = jax.tree.map(cast, sampler.params)
  return dataclasses.replace(sampler, params=params, guidance=GUIDANCE)
