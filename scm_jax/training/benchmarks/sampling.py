"""How long a sample takes, beside the least that the hardware allows.

Weights are random, and as `scm_jax.load` keeps them: bfloat16 on GPUs and TPUs,
float32 on CPUs. All of it is of one device, without an autoencoder.
"""

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scm_jax import networks
from scm_jax.interop import export_folder
from scm_jax.model import Model
from scm_jax.training import resolve

STEPS = (1, 2)  # of the student


class Rates(NamedTuple):
  """What a device does in a second, by its maker.

  Attributes:
    flops: in bfloat16.
    bandwidth: bytes between memory and cores.
  """

  flops: float
  bandwidth: float


def measure(
  config: Any, flops: float, rates: Rates | None, repeats: int, batch: int
) -> tuple[dict[str, float], dict[str, Any]]:
  """The objects `sample_ms` and `sampling` of `bench --json`.

  Args:
    config: of any run.
    flops: of the network for one image.
    rates: of the device; None leaves the floors null.
    repeats: timed calls.
    batch: images at once, for throughput.
  """
  student = random_model(config, consistency=True)
  teacher = random_model(config, consistency=False)
  size = parameter_bytes(student.params)
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
  """No sampler is faster, in milliseconds: memory or arithmetic bound it.

  Args:
    batch: images at once.
    evaluations: of the network, which reads its parameters in each.
    size: bytes of the parameters.
    flops: of one evaluation for one image.
    rates: of the device.
  """
  if rates is None:
    return None
  memory, compute = size / rates.bandwidth, batch * flops / rates.flops
  return 1e3 * evaluations * max(memory, compute)


def random_model(config: Any, consistency: bool) -> Model:
  """A student or a teacher of the config's network."""
  config = config.copy_and_resolve_references()
  if consistency and config.run == "teacher":
    config.run = "scd"
  elif not consistency:
    config.run = "teacher"
  model = Model(
    network=networks.build(resolve.network_config(config)),
    params=None,
    codec=resolve.codec(config),
    consistency=consistency,
    solver=config.sample.solver,
  )
  dtype = "" if jax.devices()[0].platform == "cpu" else "bfloat16"
  model = export_folder.as_computed(model, dtype)
  params = _random_params(model.network, jnp.dtype(dtype or "float32"))
  return dataclasses.replace(model, params=params)


def _random_params(network: networks.Network, dtype: Any) -> Any:
  """Normal weights in the types of `export_folder.cast`."""
  key = jax.random.key(0)
  leaves, tree = jax.tree.flatten(jax.eval_shape(network.init, key))

  def drawn():
    return [
      jax.random.normal(k, v.shape, dtype if v.ndim > 1 else v.dtype)
      for k, v in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]

  return jax.tree.unflatten(tree, jax.jit(drawn)())


def parameter_bytes(params: Any) -> int:
  """Of the network, without the weighting head, which no sampler reads."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(params["denoiser"]))


def median_ms(model: Model, batch: int, steps: int, repeats: int) -> float:
  """Of a call that draws a batch, from the seed to images in main memory."""
  labels = np.zeros(batch, np.int32)
  if not model.network.config.num_classes:
    labels = None
  seconds = []
  for i in range(repeats + 1):
    start = time.perf_counter()
    model.sample(labels, num=batch, steps=steps, batch_size=batch)
    if i:  # the first call compiles
      seconds.append(time.perf_counter() - start)
  return 1e3 * float(np.median(seconds))
