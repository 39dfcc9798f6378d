"""Measures how fast one size of network draws, beside what the device allows.

Weights are random and in bfloat16, and latents are not decoded.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

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
# Batch and steps of what is drawn, by objective; None is the sampler's own.
CASES = {"scd": ((1, 2), (1, 1), (64, 2)), "teacher": ((1, None),)}
PRODUCTS = {"scd": ((1, 2),)}  # few images, as for `folding.by_product`


def measure(request: Request) -> Iterator[tuple[str, Any]]:
  """Yields the times of a student's steps and of its teacher's, and floors.

  With the option `products`, those of a student whose convolutions are all
  products: without cuDNN, its kernels are one CUDA graph.
  """
  size, tiny = request.options["size"], request.tiny
  products = request.options["products"]
  if products:  # in this process alone, which ends with the part
    folding.suits_product = lambda positions, channels: True
  one = runs.run(runs.imagenet("scd", size, tiny), batch_size=1)
  flops = train_step.forward_arithmetic(one)
  for objective, cases in (PRODUCTS if products else CASES).items():
    # The networks are large; no two are in memory at once.
    sampler = _sampler(objective, size, tiny)
    for batch, steps in cases:
      steps = steps or sampler.steps
      name = f"{objective}, {steps} steps, batch {batch}"
      name += ", by products" * products
      if name not in request.have:
        given = dataclasses.replace(sampler, batch_size=batch)
        yield name, _measured(given, steps, flops, tiny)
        del given
    del sampler


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
    "floor_ms": sampling.floor_ms(batch, evaluations, count, flops, rates),
    "parameter_bytes": count,
    "flops_per_evaluation": flops,
  }


def _sampler(objective: str, size: str, tiny: bool) -> Sampler:
  """Returns a sampler of an objective's network with random weights."""
  run = runs.run(runs.imagenet(objective, size, tiny))
  network = networks.build(run.network)
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  sampler = resolve.model(run, sampling.random_like(shapes))
  sampler = export_folder.as_computed(sampler, DTYPE)
  cast = lambda x: x.astype(jnp.dtype(DTYPE)) if x.ndim > 1 else x
  params = jax.tree.map(cast, sampler.params)
  return dataclasses.replace(sampler, params=params, guidance=GUIDANCE)
