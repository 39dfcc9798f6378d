"""Shards arrays over devices: one mesh, and one rule for every tree of arrays.

The mesh has two axes. A batch is split over both. The parameters, their moments
and EMAs, and the teacher are split over `fsdp` by the rule `spec` and repeated
over `data`; each pass gathers what it reads (see `networks.sharded`). Devices
are in the order of slices, processes and ids, so that `fsdp`, the inner axis,
stays within a host where it fits, and each process holds consecutive samples.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)

from scm_jax.defaults import Run
from scm_jax.errors import ConfigError

DATA, FSDP = "data", "fsdp"
BATCH = PartitionSpec((DATA, FSDP))  # for arrays whose first axis is the batch
REPLICATED = PartitionSpec()
_AXIS_TYPES = (AxisType.Auto, AxisType.Auto)


def make_mesh(config: Run, devices: Sequence[Any] | None = None) -> Mesh:
  """Returns the mesh that `config.mesh` describes.

  Args:
    config: the run's config.
    devices: the devices of the mesh, which need not be here (those of another
      topology, say); None takes all devices that are here.

  Raises:
    ConfigError: the devices or the batch cannot be divided like this.
  """
  if devices is None:
    devices = jax.devices()
    counts = Counter(device.process_index for device in devices).values()
    if len(set(counts)) > 1:
      raise ConfigError(
        "the processes have different numbers of devices: "
        f"{', '.join(map(str, counts))}; give each the same"
      )
  sizes = _sizes(config.mesh, len(devices))
  parts = len(devices) * max(1, config.microbatches)
  if config.batch_size % parts:
    raise ConfigError(
      f"config.batch_size={config.batch_size} cannot be divided among "
      f"{len(devices)} device(s) with config.microbatches="
      f"{config.microbatches}; make it a multiple of {parts}"
    )
  grid = np.asarray(sorted(devices, key=_place)).reshape(sizes)
  return Mesh(grid, (DATA, FSDP), axis_types=_AXIS_TYPES)


def abstract_mesh(data: int, fsdp: int) -> AbstractMesh:
  """Returns a mesh of these sizes that has no devices."""
  return AbstractMesh((data, fsdp), (DATA, FSDP), axis_types=_AXIS_TYPES)


def microbatches(config: Run, devices: int) -> int:
  """Returns into how many microbatches a device's part of a batch is split.

  It is `config.microbatches` if that is not zero, otherwise the fewest equal
  parts of at most `config.images_per_pass` images.
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
  """Returns the sizes of `data` and `fsdp`, with -1 replaced by the rest."""
  given = [sizes.data, sizes.fsdp]
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
  """Returns the device's key in the order of the mesh."""
  slice_index = getattr(device, "slice_index", None) or 0
  return slice_index, device.process_index, device.id


def spec(
  path: str, shape: tuple[int, ...], config: Run, mesh: Mesh
) -> PartitionSpec:
  """Returns an array's spec: its largest divisible dimension over `fsdp`.

  Of equal dimensions, the last is split: it is that of the filters, each of
  which is then normalised on its own device. Arrays of fewer than
  `config.sharding.min_size` elements are replicated, and so are arrays without
  a divisible dimension.

  Args:
    path: the keys of the array, joined by slashes. `config.sharding.rules` has
      pairs of a pattern and a dimension (None to replicate); the first pair
      whose pattern is found in the path decides.
    shape: the array's shape.
    config: the run's config.
    mesh: the mesh on which the array lies.

  Raises:
    ConfigError: the dimension of a rule is not divisible.
  """
  size = mesh.shape[FSDP]
  if size == 1:
    return REPLICATED
  for pattern, dimension in config.sharding.rules:
    if not re.search(pattern, path):
      continue
    if dimension is None:
      return REPLICATED
    if len(shape):
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


def placed(config: Run, mesh: Mesh, tree: Any) -> Any:
  """Returns the shapes and types of a tree with its shardings by `spec`.

  Filters lie in memory in the order of axes of `config.sharding.filter_order`.
  """
  order = _layout(config.sharding.filter_order)

  def place(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    where = NamedSharding(mesh, spec(name, leaf.shape, config, mesh))
    # Filters of one pixel are matrices, which compilers take as they are.
    if order and len(leaf.shape) == 4 and math.prod(leaf.shape[:2]) > 1:
      where = Format(order, where)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

  return jax.tree_util.tree_map_with_path(place, tree)


def _layout(order: str) -> Layout | None:
  """Returns the layout of an HWIO array whose axes lie in another order.

  It is None for `HWIO` itself, which is every compiler's default.
  """
  if order == "HWIO":
    return None
  return Layout(tuple(map("HWIO".index, order)))


def formats(tree: Any) -> Any:
  """Returns the shardings of `placed` shapes, with layouts where those differ.

  `jax.jit` takes them as the shardings of its arguments and results.
  """
  return jax.tree.map(lambda leaf: leaf.format, tree)


def specs(tree: Any) -> Any:
  """Returns the specs of a tree of arrays, or of `placed` shapes."""
  return jax.tree.map(lambda leaf: leaf.sharding.spec, tree)


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Copies a tree of arrays on the mesh to every device, each array whole."""
  return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays that are whole on every device."""
  return NamedSharding(mesh, REPLICATED)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch: its samples over all devices."""
  return NamedSharding(mesh, BATCH)


def place_batch(batch: Any, mesh: Mesh) -> Any:
  """Puts a batch on the devices; `batch` is this process's part of it."""
  sharding = batch_sharding(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )
