"""Where everything lies: one mesh, and one rule for every tree of arrays.

The mesh has two axes. A batch is split over both. Parameters, their moments,
every average and the teacher are split over `fsdp` by `spec` and repeated over
`data`; each pass gathers what it reads (see `networks.sharded`). Devices stand
in the order of slices, processes and ids, so that `fsdp`, the inner axis, stays
within a host where it fits, and each process holds consecutive samples.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scm_jax.errors import ConfigError

DATA, FSDP = "data", "fsdp"
BATCH = PartitionSpec((DATA, FSDP))  # of arrays whose first axis is the sample
REPLICATED = PartitionSpec()


def make_mesh(config: Any, devices: Sequence[Any] | None = None) -> Mesh:
  """The mesh of `config.mesh`.

  Args:
    config: the run's config.
    devices: those of a topology that is not here, say; None takes all.

  Raises:
    ConfigError: the devices, or the batch, do not divide like this.
  """
  devices = jax.devices() if devices is None else devices
  sizes = _sizes(config.mesh, len(devices))
  parts = len(devices) * max(1, config.microbatches)
  if config.batch_size % parts:
    raise ConfigError(
      f"config.batch_size={config.batch_size} cannot be divided among "
      f"{len(devices)} device(s) with config.microbatches="
      f"{config.microbatches}; make it a multiple of {parts}"
    )
  grid = np.asarray(sorted(devices, key=_place)).reshape(sizes)
  return Mesh(grid, (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def microbatches(config: Any, devices: int) -> int:
  """How many parts of a device's batch follow one another.

  `config.microbatches`, if it is not zero. Otherwise the fewest equal parts of
  at most `config.images_per_pass` images.

  Args:
    config: the run's config, whose batch divides among the devices.
    devices: of the mesh.
  """
  if config.microbatches or not config.images_per_pass:
    return max(1, config.microbatches)
  images = config.batch_size // devices
  return next(
    parts
    for parts in range(1, images + 1)
    if images % parts == 0 and images // parts <= config.images_per_pass
  )


def _sizes(sizes: Any, devices: int) -> tuple[int, int]:
  """Sizes of `data` and `fsdp` that make up the number of devices."""
  given = [sizes[DATA], sizes[FSDP]]
  rest = devices // max(1, math.prod(size for size in given if size > 0))
  resolved = [rest if size == -1 else size for size in given]
  if given.count(-1) > 1 or math.prod(resolved) != devices or rest < 1:
    raise ConfigError(
      f"config.mesh is data={given[0]}, fsdp={given[1]}, which {devices} "
      "device(s) cannot make; their product is the number of devices, and -1 "
      "stands for the rest in one of them"
    )
  return resolved[0], resolved[1]


def _place(device: Any) -> tuple[int, int, int]:
  slice_index = getattr(device, "slice_index", None) or 0
  return slice_index, device.process_index, device.id


def spec(
  path: str, shape: tuple[int, ...], config: Any, mesh: Mesh
) -> PartitionSpec:
  """Where an array lies: its largest dimension that divides, over `fsdp`.

  Of equal dimensions it is the last: the filters, each of which is normalised
  on its own device then. Arrays of fewer than `config.sharding.min_size`
  elements are replicated, and so are those that do not divide.

  Args:
    path: keys joined by slashes; `config.sharding.rules` has (pattern,
      dimension) pairs, of which the first whose pattern is found in it decides;
      None is for replicated.
    shape: of the array.
    config: the run's config.
    mesh: where it lies.

  Raises:
    ConfigError: a rule's dimension does not divide.
  """
  size = mesh.shape[FSDP]
  if size == 1:
    return REPLICATED
  for pattern, dimension in config.sharding.rules:
    if re.search(pattern, path) and dimension is None:
      return REPLICATED
    if re.search(pattern, path) and len(shape):
      if not -len(shape) <= dimension < len(shape) or shape[dimension] % size:
        raise ConfigError(
          f"config.sharding.rules asks for dimension {dimension} of {path} "
          f"{shape} over {size} devices, which does not divide"
        )
      return _split(dimension % len(shape))
  if math.prod(shape) < config.sharding.min_size:
    return REPLICATED
  divisible = [i for i, n in enumerate(shape) if n % size == 0]
  if not divisible:
    return REPLICATED
  return _split(max(divisible, key=lambda i: (shape[i], i)))


def _split(dimension: int) -> PartitionSpec:
  return PartitionSpec(*[None] * dimension, FSDP)


def specs(config: Any, mesh: Mesh, tree: Any) -> Any:
  """The rule over a tree of arrays or their shapes: a tree of specs."""

  def of_leaf(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return spec(name, leaf.shape, config, mesh)

  return jax.tree_util.tree_map_with_path(of_leaf, tree)


def shardings(config: Any, mesh: Mesh, tree: Any) -> Any:
  """The rule over a tree of arrays or their shapes: a tree of shardings."""
  return jax.tree.map(
    lambda spec: NamedSharding(mesh, spec), specs(config, mesh, tree)
  )


def placed(config: Any, mesh: Mesh, tree: Any) -> Any:
  """Shapes and types of a tree, with the rule's shardings."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    tree,
    shardings(config, mesh, tree),
  )


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Whole arrays on every device, from arrays on the mesh."""
  everywhere = NamedSharding(mesh, REPLICATED)
  return jax.jit(lambda tree: tree, out_shardings=everywhere)(tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Of a batch: its samples over all devices."""
  return NamedSharding(mesh, BATCH)


def place_batch(batch: Any, mesh: Mesh) -> Any:
  """The global batch on the devices, from this process's part of it."""
  sharding = batch_sharding(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )
