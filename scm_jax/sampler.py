"""The class that draws images from a trained network, for every caller.

`scm_jax.load`, the command line, evaluations, exports and the grids drawn in
training all use `Sampler`. It needs jax, flax and numpy alone.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax import editing, samplers
from scm_jax import sampler_inputs as inputs
from scm_jax import sampler_programs as programs
from scm_jax.networks.folding import GPUS
from scm_jax.sampler_inputs import Labels
from scm_jax.sampler_kinds import Guidance, few_times
from scm_jax.sampler_state import SamplerState


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler(SamplerState):
  """A trained network, its parameters and how images are drawn from it.

  Sampling compiles one program for each number of steps and size of a batch:
  noise, all steps, and decoding. Samplers that differ in their parameters only
  share their programs, because a sampler is a pytree whose leaves are the
  parameters.

  Labels are one class for each image, repeated in turn. The number of classes
  stands for "no label". None stands for every class in turn. The attributes are
  those of `SamplerState`.
  """

  # The checks of what a caller asks for.
  guidance_refusal = inputs.guidance_refusal
  guidance_scale = inputs.guidance_scale
  guidance_scales = inputs.guidance_scales
  labels = inputs.labels

  def guided_by(self, weak: "Sampler") -> "Sampler":
    """Returns this diffusion model, guided by a weaker one (autoguidance).

    A guidance scale `s` then draws with `F_weak + s (F - F_weak)` (arXiv
    2406.02507), both networks with the same labels, unless the weak one takes
    none. It replaces the guidance network that there may be.

    Args:
      weak: a diffusion model of the same data on the same devices, such as an
        early snapshot or a smaller network.

    Raises:
      ConfigError: one of the two is no diffusion model, or their data differ.
    """
    inputs.check_guide(self, weak)
    return dataclasses.replace(
      self, guidance_network=weak.network, guidance_params=weak.params
    )

  def sample(
    self,
    labels: Labels = None,
    *,
    num: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    guidance: float | Sequence[float] | None = None,
  ) -> np.ndarray:
    """Draws images.

    Args:
      labels: the images' classes, see the class.
      num: the number of images; None is one for each label.
      steps: the number of steps; None is `self.steps`.
      seed: image `i` is a function of `(seed, i, label i)`.
      guidance: the guidance scale, or one for each step, where the network
        takes it as an input; None is the sampler's own.

    Returns:
      uint8 images `[num, H, W, C]` on the host.

    Raises:
      ConfigError: labels that the network does not have, guidance for a network
        that cannot be guided, or numbers that cannot be.
    """
    label = self.labels(labels, num)
    images = np.empty((len(label), *self.image_shape), np.uint8)
    first = 0
    for batch in self.batches(label, steps=steps, seed=seed, guidance=guidance):
      images[first : first + len(batch)] = batch
      first += len(batch)
    return images

  def batches(
    self,
    label: np.ndarray,
    *,
    steps: int | None = None,
    seed: int = 0,
    guidance: float | Sequence[float] | None = None,
  ) -> Iterator[np.ndarray]:
    """Returns an iterator over the images of `sample`, batch by batch.

    At most two batches are on the devices at any time, however many images are
    drawn. `label` holds one label for each image, as `labels` returns them; the
    other arguments and the errors are those of `sample`.
    """
    steps = self.steps if steps is None else steps
    scale = self.guidance_scales(guidance, steps)
    to_host = self.platform in GPUS  # the images are fetched sooner

    def draw(batch: Any) -> Array:
      return self.draw(
        *batch, steps=steps, seed=seed, guidance=scale, to_host=to_host
      )

    arrays = np.arange(len(label)), np.asarray(label, np.int32)
    return programs.in_batches(self, draw, arrays)

  def draw(
    self,
    index: np.ndarray,
    label: np.ndarray,
    *,
    steps: int,
    seed: int,
    guidance: Guidance,
    to_host: bool = False,
  ) -> Array:
    """Starts to draw the images with the numbers `index`, `[B]` like `label`.

    It returns at once: uint8 images `[B, H, W, C]` on the devices, or in the
    memory of their hosts. `guidance` is what `guidance_scales` returns; see
    `sample` for the rest, and for the errors.
    """
    steps = inputs.steps_and_seed(self, steps, seed)
    seeds = np.full_like(label, np.int32(seed))
    batch = np.stack((seeds, index, label), axis=1).astype(np.int32)
    return programs.draw_from_seed(
      self.ready,
      inputs.scale_array(guidance),
      programs.put(self, batch),
      steps=steps,
      guided=self.extrapolates(guidance),
      to_host=to_host,
    )

  def noise(
    self, num: int, *, steps: int | None = None, seed: int = 0
  ) -> np.ndarray:
    """Returns the noise of the first `num` images that `sample` draws.

    It is unit noise `[draws, num, H, W, C]`: one draw for each step of a
    consistency model, one in all for a diffusion model.
    """
    draws = self.noise_draws(inputs.steps_and_seed(self, steps, seed))
    index = jnp.arange(inputs.whole("num", num, 1), dtype=jnp.int32)
    return np.asarray(samplers.draw_noise(seed, index, draws, self.data_shape))

  def from_noise(
    self,
    noise: np.ndarray,
    labels: Labels = None,
    *,
    steps: int | None = None,
    guidance: float | Sequence[float] | None = None,
  ) -> np.ndarray:
    """Draws images from given noise.

    Args:
      noise: unit noise `[draws, N, H, W, C]`, as `noise` returns it.
      labels: the images' classes, see the class.
      steps: the steps of a diffusion model's solver; a consistency model takes
        one step for each draw.
      guidance: as for `sample`.

    Returns:
      uint8 images `[N, H, W, C]`.

    Raises:
      UserError: noise of another shape, labels that the network does not have,
        or guidance for a network that cannot be guided.
    """
    return self._from_noise(
      programs.draw_from_noise, noise, labels, steps, guidance
    )

  def path(
    self,
    noise: np.ndarray,
    labels: Labels = None,
    *,
    steps: int | None = None,
    guidance: float | Sequence[float] | None = None,
  ) -> samplers.Path:
    """Returns the steps by which `from_noise` draws its images, as images.

    Args and errors are those of `from_noise`.

    Returns:
      The steps' times in radians `[steps]`; the noisy samples that they begin
      with, and the network's predictions of the clean samples, both uint8
      `[steps, N, H, W, C]`. The last prediction is the image.
    """
    path = self._from_noise(programs.draw_path, noise, labels, steps, guidance)
    x_t, x0 = (np.moveaxis(images, 1, 0) for images in path[1:])
    return samplers.Path(path.times[0], x_t, x0)

  def _from_noise(
    self,
    program: Any,
    noise: np.ndarray,
    labels: Labels,
    steps: int | None,
    guidance: float | Sequence[float] | None,
  ) -> Any:
    noise = np.asarray(noise, np.float32)
    steps = inputs.steps_from_noise(self, noise, steps)
    scale = self.guidance_scales(guidance, steps)
    program = functools.partial(
      program,
      self.ready,
      inputs.scale_array(scale),
      steps=steps,
      guided=self.extrapolates(scale),
    )
    arrays = np.moveaxis(noise, 0, 1), self.labels(labels, noise.shape[1])
    return programs.join(programs.in_batches(self, program, arrays))

  def edit(
    self,
    images: np.ndarray,
    labels: Labels = None,
    *,
    known: editing.Known | np.ndarray | None = None,
    start: float | None = None,
    steps: int = 2,
    seed: int = 0,
    guidance: float | None = None,
  ) -> np.ndarray:
    """Draws images that keep what is known of given images (see `editing`).

    Args:
      images: uint8 images `[N, H, W, C]`.
      labels: the images' classes, see the class.
      known: what stays as it is: a bool mask of pixels that broadcasts to
        `[H, W]` or to the images, or any `editing.Known`; None is nothing.
      start: the time, in radians, to which the images are noised at first: near
        0 they hardly change, near pi/2 little of them is left. None starts from
        noise alone.
      steps: the number of steps; more of them join the new parts better to what
        is known.
      seed: the noise's seed.
      guidance: the guidance scale; None is the sampler's own.

    Returns:
      uint8 images of the same shape.

    Raises:
      UserError: a diffusion model or a network of latents, which cannot edit,
        or arguments that do not fit.
    """
    images = np.asarray(images)
    inputs.check_edit(self, images, known, start, guidance)
    steps = inputs.steps_and_seed(self, steps, seed)
    mask, transform = np.zeros((len(images), 1), bool), None
    if known is not None:
      if not isinstance(known, editing.Known):
        known = editing.pixels(known)
      mask = inputs.known_mask(known, images.shape)
      transform = known.transform
    program = functools.partial(
      programs.draw_edit,
      self.ready,
      inputs.scale_array(self.guidance_scale(guidance)),
      times=few_times(self, steps)
      if start is None
      else editing.times(steps, start),
      transform=transform,
      from_images=start is not None,
    )
    noise = np.moveaxis(self.noise(len(images), steps=steps, seed=seed), 0, 1)
    arrays = noise, self.labels(labels, len(images)), images, mask
    return programs.join(programs.in_batches(self, program, arrays))


_PARAMETERS = ["params", "decoder", "guidance_params"]
_FIELDS = [field.name for field in dataclasses.fields(Sampler)]
jax.tree_util.register_dataclass(
  Sampler,
  data_fields=_PARAMETERS,
  meta_fields=[name for name in _FIELDS if name not in _PARAMETERS],
)
