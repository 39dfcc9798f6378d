"""What a train step needs of a device's memory, before anything is compiled.

Arguments and gradients follow from shapes, types and shardings. What the passes
keep is counted from the shapes of the residuals of `jax.vjp`, of which a
compiler keeps a part: see `KEPT`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scm_jax import networks
from scm_jax.planning import arithmetic
from scm_jax.training import resolve, sharding

# What compiled programs hold at their peak (docs/planning.md says how well this
# meets them): of the residuals' bytes, by platform and policy, and of the whole
# weights. Compilers fuse pointwise operations and so keep fewer arrays than
# `jax.vjp` names; a block that is computed again needs its own for a while.
KEPT = {
  "gpu": {"none": 0.44, "dots": 1.3, "full": 1.3},
  "tpu": {"none": 0.31, "dots": 1.3, "full": 1.3},
}
_WEIGHTS = 1.5
# Of the images that the residuals are counted for. No layer has so many
# channels, so that an array whose first axis is as long is one for each image.
_IMAGES = 17


class Need(NamedTuple):
  """Bytes on one device.

  Attributes:
    resident: the state, the teacher and the batch.
    gradients: sums over microbatches, and of the last ones what does not find
      room where weights and activations were.
    weights: whole, in the type that the network computes in, and copies.
    activations: of one pass.
  """

  resident: int
  gradients: int
  weights: int
  activations: int

  @property
  def total(self) -> int:
    """All of them."""
    return sum(self)


class Step:
  """The step of a run as shapes, which every way to run it has in common.

  Tracing takes seconds for the largest networks; `need` only adds up.
  """

  def __init__(self, config: Any, platform: str = "gpu"):
    """Traces the state, and the teacher where every step asks it.

    Args:
      config: of the run.
      platform: of the devices, as jax names it; `KEPT` has `gpu` and `tpu`.
    """
    self._share = KEPT.get(platform, KEPT["gpu"])
    self._shapes = arithmetic.trace(config)
    params = self._shapes.state.params
    self._elements = sum(leaf.size for leaf in jax.tree.leaves(params))
    self._arguments: dict[tuple, tuple[int, int]] = {}
    self._residuals: dict[str, float] = {}

  def need(self, config: Any, data: int, fsdp: int) -> Need:
    """Of the run with other ways to run it, on a mesh of these sizes.

    Args:
      config: the run's, but for the fields `teacher_dtype`, `microbatches`,
        `images_per_pass`, `network.remat` and `offload`.
      data, fsdp: sizes of the mesh.
    """
    resident, gradients = self._fixed(config, data, fsdp)
    itemsize = jnp.dtype(config.network.dtype).itemsize
    weights = round(_WEIGHTS * self._elements * itemsize)
    parts = sharding.microbatches(config, data * fsdp)
    images = config.batch_size // (data * fsdp * parts)
    activations = round(images * self._kept(config))
    sums = gradients if parts > 1 else 0
    last = max(0, gradients - weights - activations)
    return Need(resident, sums + last, weights, activations)

  def _fixed(self, config: Any, data: int, fsdp: int) -> tuple[int, int]:
    """Bytes of the arguments, and of the parameters' gradient."""
    key = (data, fsdp, config.offload, config.teacher_dtype)
    if key not in self._arguments:
      mesh = arithmetic.abstract_mesh(data, fsdp)
      given = arithmetic.arguments(config, mesh, self._shapes)
      resident = sum(arithmetic.resident(given).values())
      gradients = arithmetic.local_bytes(given.state.params)
      self._arguments[key] = resident, gradients
    return self._arguments[key]

  def _kept(self, config: Any) -> float:
    """Bytes of activations for one image."""
    policy = config.network.remat
    if policy not in self._residuals:
      self._residuals[policy] = residuals(config, self._shapes.state.params)
    return self._share[policy] * self._residuals[policy]


def residuals(config: Any, params: Any) -> float:
  """Bytes an image that the network's backward pass reads, by `jax.vjp`.

  The tangent of sCM's objective has no backward pass, and keeps nothing.

  Args:
    config: of the run.
    params: the network's parameters, as shapes.
  """
  network = networks.build(resolve.network_config(config))
  data = config.data
  shape = (_IMAGES, data.size, data.size, data.channels)

  def pullback(params):
    cond = networks.null_cond(network.config, _IMAGES)
    keys = jax.random.split(jax.random.key(0), _IMAGES)
    inputs = (jnp.zeros(shape), jnp.zeros(_IMAGES), cond)
    F = lambda p: network.F(p, *inputs, rngs={"dropout": keys}, train=True)
    return jax.vjp(F, params)[1]

  leaves = jax.tree.leaves(jax.eval_shape(pullback, params))
  kept = [leaf for leaf in leaves if leaf.shape[:1] == (_IMAGES,)]
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in kept) / _IMAGES
