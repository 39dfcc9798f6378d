"""Samples that one network begins and another one finishes.

A student that draws in two steps is as good as the worse of them. To see which
one that is, samples of a first network, or real images, are noised to a middle
time, and a second network takes them back to data: a student in one step, a
teacher along its ODE.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax import sampler_programs as programs
from scm_jax import samplers, trigflow
from scm_jax.errors import ConfigError
from scm_jax.evaluation.candidate import DrawnImages, Samples
from scm_jax.evaluation.dataset import ImageDataset
from scm_jax.evaluation.request import CandidateGrid, Request, digest
from scm_jax.evaluation.selection import Load
from scm_jax.evaluation.subjects import Runs
from scm_jax.metrics import streaming
from scm_jax.objectives import OBJECTIVES
from scm_jax.sampler import Sampler

DATA = "data"  # what takes the first network's place where images do


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["model", "scale"],
  meta_fields=["steps", "guided"],
)
@dataclasses.dataclass(frozen=True)
class Part:
  """How a network draws, as an argument of a program."""

  model: Sampler
  scale: Any  # of guidance
  steps: int
  guided: bool  # whether the scale costs a second evaluation

  def integrate(self, noise: Array, label: Array) -> Array:
    """Returns samples `[B, H, W, C]` from unit noise `[1, B, H, W, C]`."""
    x0, _ = programs.integrate(
      self.model, noise, label, self.scale, self.steps, self.guided
    )
    return x0

  def later(self, t: float) -> "Part":
    """Returns the part that begins at the time `t`, in radians.

    It takes what is noised to that time, over `sigma_d`, in place of noise.
    """
    sigma = self.model.codec.sigma_d * math.tan(t)
    model = dataclasses.replace(self.model, sigma_max=sigma)
    return dataclasses.replace(self, model=model)


@functools.partial(jax.jit, static_argnames="t_mid")
def draw(
  first: Part | None,
  second: Part,
  seed: Any,
  batch: tuple[Array, Array, Any],
  *,
  t_mid: float,
) -> Array:
  """Draws uint8 images `[B, H, W, C]` in two parts.

  The noise is that of two steps of `Sampler.draw` from the same seed, so that a
  student that finishes its own samples draws as in two steps.

  Args:
    first: the network that begins; None begins with data.
    second: the network that finishes.
    seed: the seed.
    batch: the samples' numbers `[B]` and labels `[B]`, and the data as stored
      `[B, ...]`, or None if a network begins.
    t_mid: the time in radians to which the first part's samples are noised.
  """
  index, label, stored = batch
  codec, shape = second.model.codec, second.model.data_shape
  noise = samplers.draw_noise(seed, index, 2, shape)
  if first is None:
    root = jax.random.split(jax.random.key(seed))[0]  # not the noise's
    encode = lambda x, i: codec.encode(x[None], jax.random.fold_in(root, i))[0]
    x0 = jax.vmap(encode)(stored, index)
  else:
    x0 = first.integrate(noise[:1], label)
  t = jnp.full(index.shape, t_mid, noise.dtype)
  x_t = trigflow.interpolate(x0, codec.sigma_d * noise[1], t)
  x0 = second.later(t_mid).integrate((x_t / codec.sigma_d)[None], label)
  return programs.decode(second.model, x0)


@dataclasses.dataclass(frozen=True)
class ComposedImages:
  """Images that one network, or the data, begins and another one finishes."""

  first: DrawnImages | None  # None is the data
  second: DrawnImages
  t_mid: float  # radians
  data: ImageDataset
  name: str

  @property
  def num_classes(self) -> int:
    return self.second.num_classes

  def own_labels(self, num: int) -> np.ndarray | None:
    if self.first or not self.num_classes:
      return None
    return self.data.read(self._chosen(num).tolist())[1]

  def settings(self) -> dict[str, Any]:
    own = {} if self.first or not self.num_classes else {"labels": DATA}
    return {**self.second.settings(), "t_mid": self.t_mid} | own

  def facts(self) -> dict[str, Any]:
    parts = [part for part in (self.first, self.second) if part]
    sizes = {part.model.parameters for part in parts}
    return {
      "objective": "composition",
      "steps": None,
      "nfe": sum(part.evaluations for part in parts),
      "params": sizes.pop() if len(sizes) == 1 else None,
      "first": self.first.path if self.first else DATA,
      "first_guidance": self.first.guidance if self.first else None,
      "then": self.second.path,
    }

  def fingerprint(self) -> str:
    first = self.first.fingerprint() if self.first else self.data.fingerprint()
    return digest(first, self.second.fingerprint(), self.t_mid)

  def batches(
    self,
    part: range,
    size: int,
    samples: Samples,
    extraction: streaming.Extraction,
  ) -> Iterator[Any]:
    first = self.first and _part(self.first, extraction)
    second = _part(self.second, extraction)
    chosen = self._chosen(samples.num)
    label = samples.labels_for(self.second.model)
    for start in range(part.start, part.stop, size):
      index = np.arange(start, start + size)
      inside = np.minimum(index, samples.num - 1)
      stored = None if first else self.data.read(chosen[inside].tolist())[0]
      batch = programs.put(second.model, (index, label[inside], stored))
      seed = np.int32(samples.seed)
      yield draw(first, second, seed, batch, t_mid=self.t_mid)

  def _chosen(self, num: int) -> np.ndarray:
    """Returns the indices of evenly spaced images."""
    return np.arange(num) * len(self.data) // num


def _part(drawn: DrawnImages, extraction: streaming.Extraction) -> Part:
  """Returns a network on all devices, ready to draw."""
  model, scale = drawn.model.on(extraction.sharding).ready, drawn.guidance
  assert not isinstance(scale, tuple)  # each part is drawn with one scale
  guided = drawn.model.extrapolates(scale)
  return Part(model, np.float32(scale), drawn.steps, guided)


class Compositions(Runs):
  """All ways in which two networks and the data can begin and finish."""

  def __init__(self, request: Request):
    """Loads both networks; raises ConfigError if they do not go together."""
    grid = request.grid
    if grid.times or any(isinstance(x, tuple) for x in grid.guidance):
      raise ConfigError(
        "--then draws each part with one guidance scale, at --t-mid; leave "
        "--times and scales of single steps out"
      )
    paths = (*grid.workdirs, request.then)
    grid = dataclasses.replace(grid, workdirs=paths)
    super().__init__(dataclasses.replace(request, grid=grid))
    self._parts = [_drawn(path, grid, self._load) for path in paths]
    _check_alike(*self._parts)

  def groups(self) -> Iterator[Sequence[ComposedImages]]:
    data, networks = self.open_dataset(), _by_name(self._parts)
    # A student's own time, if there is one.
    parts = sorted(self._parts, key=lambda p: not p.model.rules.few_steps)
    model = parts[0].model
    own = (*self._grid.t_mid, model.t_mid)[0]
    t_mid = samplers.consistency_times(2, model.codec.sigma_d, own)[1]
    for begins, first in {**networks, DATA: None}.items():
      for ends, second in networks.items():
        name = f"{begins}, then {ends}"
        yield [ComposedImages(first, second, t_mid, data, name)]


def _drawn(path: str, grid: CandidateGrid, load: Load) -> DrawnImages:
  """Returns a network that draws a part: a student in one step."""
  model, metadata = load(path, grid.ema[0])
  scale, steps = model.guidance_scale(), 1
  if grid.guidance and not model.guidance_refusal():
    scale = grid.guidance[0]
  if not model.rules.few_steps:
    steps = (*grid.teacher_steps, model.solver_steps)[0]
  return DrawnImages(model, steps, scale, metadata, path)


def _by_name(parts: Sequence[DrawnImages]) -> dict[str, DrawnImages]:
  """Returns networks by their objectives' names, or those of their folders."""
  kinds = [OBJECTIVES[part.metadata["config"].run].label for part in parts]
  folders = [os.path.basename(os.path.abspath(part.path)) for part in parts]
  paths = [part.path for part in parts]
  names = next(n for n in (kinds, folders, paths) if len(set(n)) == len(n))
  return dict(zip(names, parts, strict=True))


def _check_alike(one: DrawnImages, other: DrawnImages) -> None:
  """Raises ConfigError unless two networks are of the same data."""
  if one.path == other.path:
    raise ConfigError(
      f"--then={other.path} is the network of --workdir; give another one"
    )

  def about(part: DrawnImages) -> tuple[Any, ...]:
    codec = part.model.codec
    numbers = codec.mean, codec.std, codec.sigma_d
    return part.model.data_shape, part.num_classes, type(codec), numbers

  if about(one) != about(other):
    raise ConfigError(
      f"--then={other.path} draws other data than --workdir={one.path}; give "
      "two networks of the same images or latents, sigma_d and classes"
    )
