"""Sampling from Python: `scm_jax.load(path).sample(labels)`.

An export needs jax, flax and numpy alone; a workdir needs `scm-jax[train]`.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scm_jax.errors import UserError
from scm_jax.interop import export_folder
from scm_jax.model import Model

BATCH = 256  # images at once on a device, at most


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
  """A trained network on the devices present, as a function of labels.

  Attributes:
    model: the network, its parameters on all devices.
    steps: default of `sample`: 2, or what a diffusion teacher's solver takes.
    devices: how many share a batch.
  """

  model: Model
  steps: int
  devices: int

  def sample(
    self,
    labels: int | Sequence[int] | np.ndarray | None = None,
    *,
    steps: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    num: int | None = None,
  ) -> np.ndarray:
    """Draws images.

    Noise, all steps and decoding are one program, compiled once for each
    number of steps and images.

    Args:
      labels: one class for each image, repeated in turn to `num`; None is every
        class in turn. The number of classes is "no label".
      steps: of the sampler; None is `self.steps`.
      seed: image `i` is a function of `(seed, i, label i)`.
      guidance: the scale; None is 1, no guidance.
      num: how many; None is one for each label.

    Returns:
      uint8 `[N, H, W, C]`.

    Raises:
      UserError: labels that are no classes, or guidance for a network that
        takes none.
    """
    label = self._labels(labels, num)
    scale = 1.0 if guidance is None else float(guidance)
    self._check_guidance(scale)
    n = self.devices
    full = np.resize(label, -(-len(label) // n) * n)
    images = self.model.sample(
      full,
      steps=self.steps if steps is None else steps,
      seed=seed,
      guidance=scale,
      batch_size=BATCH * n,
    )
    return images[: len(label)]

  def _labels(self, labels, num: int | None) -> np.ndarray:
    classes = self.model.network.config.num_classes
    if labels is None:
      labels = np.arange(max(classes, 1)) if classes else np.zeros(1, np.int32)
      num = num or len(labels)
    elif not classes:
      raise UserError("this network takes no labels; give num alone")
    label = np.atleast_1d(np.asarray(labels, np.int32))
    if not len(label) or (num is not None and num < 1):
      raise UserError("nothing to draw: no labels, or num is not positive")
    if classes and not ((label >= 0) & (label <= classes)).all():
      raise UserError(
        f"labels are 0 to {classes - 1}, and {classes} for none of them"
      )
    return np.resize(label, len(label) if num is None else num)

  def _check_guidance(self, scale: float) -> None:
    config = self.model.network.config
    if scale == 1.0 or config.guidance or self.model.guide:
      return
    if self.model.consistency:
      raise UserError("this student was trained without guidance as an input")
    if not config.num_classes:
      raise UserError("this network takes no labels, so there is no guidance")


def load(
  path: str | os.PathLike[str], average: float = 0.0, dtype: str = ""
) -> Sampler:
  """A trained network, ready to draw.

  Args:
    path: an export's folder or a workdir.
    average: of a workdir, which average of the weights; 0 is its first.
    dtype: in which weights are kept and the network computes, float32 or
      bfloat16; "" is bfloat16 on GPUs and TPUs, and as in training on CPUs.

  Raises:
    UserError: the folder is neither, or it is damaged.
  """
  if export_folder.description(path):
    model, origin = export_folder.read(path)
    config = origin.config
  else:
    model, config = _load_workdir(path, average)
  solver_steps = config.get("sample", {}).get("solver_steps", 32)
  steps = 2 if model.consistency else solver_steps
  devices = jax.devices()
  if not dtype and devices[0].platform != "cpu":
    dtype = "bfloat16"
  model = export_folder.as_computed(model, dtype)
  mesh = Mesh(np.asarray(devices), ("data",))
  model = _placed(model, jnp.dtype(dtype or "float32"), mesh)
  return Sampler(model, steps, len(devices))


def _placed(model: Model, dtype: Any, mesh: Mesh) -> Model:
  """The model with parameters on every device, for batches cut over them."""
  params = export_folder.cast(model.params, dtype)
  return dataclasses.replace(
    model,
    params=jax.device_put(params, NamedSharding(mesh, PartitionSpec())),
    guide=model.guide and _placed(model.guide, dtype, mesh),
    batch_sharding=NamedSharding(mesh, PartitionSpec("data")),
  )


def _load_workdir(
  path: str | os.PathLike[str], average: float
) -> tuple[Model, dict[str, Any]]:
  try:
    from scm_jax.training import workdir
  except ModuleNotFoundError as error:
    raise UserError(
      f"{path} is not an export, and a workdir needs the package "
      f"{error.name!r}; pip install 'scm-jax[train]'"
    ) from error
  model, about = workdir.load(path, average)
  return model, about["config"].to_dict()
