"""Estimates a train step's memory on one device without compiling it.

The sizes of arguments and gradients follow from shapes, types and shardings.
The size of activations is a fraction of the residuals of `jax.vjp`, because a
compiler keeps only some of them: see `KEPT`.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scm_jax import networks
from scm_jax.defaults import Run
from scm_jax.planning import arithmetic
from scm_jax.training import evaluations, sharding

# What compiled programs hold at their peak, in multiples of the bytes of the
# residuals (by platform and rematerialization policy) and of all weights;
# docs/planning.md compares the estimate with compiled programs. Without
# rematerialization, compilers fuse pointwise operations and keep little more
# than what products and convolutions gave, so that the residuals of `dots` are
# those that count. A block that is computed again needs its own arrays for a
# while.
KEPT = {
  "gpu": {"none": 1.8, "dots": 1.3, "full": 1.3},
  "tpu": {"none": 1.3, "dots": 1.3, "full": 1.3},
}
_WEIGHTS = 1.5
# How many images the residuals are counted for. No layer has 17 channels, so
# that an array whose first axis is as long has one entry for each image.
_IMAGES = 17


class Need(NamedTuple):
  """The bytes that a step needs on one device.

  Attributes:
    resident: bytes of the state, the teacher and the batch.
    gradients: bytes of the sums over microbatches, and of the last gradients
      as far as they exceed the room that weights and activations leave.
    weights: bytes of all weights in the type that the network computes in, and
      of their copies.
    activations: bytes that one pass keeps for the backward pass.
  """

  resident: int
  gradients: int
  weights: int
  activations: int

  @property
  def total(self) -> int:
    """The sum of all parts."""
    return sum(self)


class Step:
  """A run's train step as shapes, traced once for all ways to run it."""

  def __init__(self, config: Run, platform: str = "gpu"):
    """Traces a run's state and teacher, for seconds if they are large.

    The `platform` is JAX's name for it; what `KEPT` lacks counts as `gpu`.
    """
    self._share = KEPT.get(platform, KEPT["gpu"])
    self.shapes = arithmetic.trace(config)
    self._kept_evaluations = evaluations.backward(config)
    params = self.shapes.state.params
    self._elements = sum(leaf.size for leaf in jax.tree.leaves(params))
    self._arguments: dict[tuple, tuple[int, int]] = {}
    self._residuals: dict[str, float] = {}

  def need(self, config: Run, data: int, fsdp: int) -> Need:
    """Returns what a step needs on a mesh of `data` times `fsdp` devices.

    The config's `teacher_dtype`, `microbatches`, `images_per_pass`,
    `network.remat` and `offload` may differ from those of the traced one.
    """
    resident, gradients = self._fixed(config, data, fsdp)
    itemsize = jnp.dtype(config.network.dtype).itemsize
    weights = round(_WEIGHTS * self._elements * itemsize)
    parts = sharding.microbatches(config, data * fsdp)
    images = config.batch_size // (data * fsdp * parts)
    activations = round(images * self._kept_evaluations * self._kept(config))
    sums = gradients if parts > 1 else 0
    last = max(0, gradients - weights - activations)
    return Need(resident, sums + last, weights, activations)

  def _fixed(self, config: Run, data: int, fsdp: int) -> tuple[int, int]:
    """Returns the bytes of the arguments and of the parameters' gradient."""
    key = (data, fsdp, config.offload, config.teacher_dtype)
    if key not in self._arguments:
      mesh = sharding.abstract_mesh(data, fsdp)
      given = arithmetic.arguments(config, mesh, self.shapes)
      resident = sum(arithmetic.resident(given).values())
      gradients = arithmetic.local_bytes(given.state.params)
      self._arguments[key] = resident, gradients
    return self._arguments[key]

  def _kept(self, config: Run) -> float:
    """Returns the bytes of activations for one image."""
    policy = config.network.remat
    if policy not in self._residuals:
      counted = "dots" if policy == "none" else policy
      network = dataclasses.replace(config.network, remat=counted)
      self._residuals[policy] = residuals(
        dataclasses.replace(config, network=network), self.shapes.state.params
      )
    return self._share[policy] * self._residuals[policy]


def residuals(config: Run, params: Any) -> float:
  """Returns the bytes an image of what `jax.vjp` keeps for a backward pass.

  The tangent of sCM's objective has no backward pass and keeps nothing. Of the
  network's parameters `params`, only the shapes matter.
  """
  network, data = networks.build(config.network), config.data
  shape = (_IMAGES, data.size, data.size, data.channels)

  def pullback(params):
    cond = networks.null_cond(network.config, _IMAGES)
    keys = {"dropout": jax.random.split(jax.random.key(0), _IMAGES)}
    inputs = (jnp.zeros(shape), jnp.zeros(_IMAGES), cond)
    F = lambda params: network.F(params, *inputs, rngs=keys, train=True)
    return jax.vjp(F, params)[1]

  leaves = jax.tree.leaves(jax.eval_shape(pullback, params))
  kept = [leaf for leaf in leaves if leaf.shape[:1] == (_IMAGES,)]
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in kept) / _IMAGES
