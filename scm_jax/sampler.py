"""Images from a trained network: drawn, followed and edited, on all devices.

`scm_jax.load` gives a `Sampler`. It needs jax, flax and numpy alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax import editing, samplers
from scm_jax.codec import PixelCodec
from scm_jax.errors import UserError
from scm_jax.model import Model

BATCH = 256  # images at once on a device, at most
Labels = int | Sequence[int] | np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
  """A trained network on the devices present, as functions of labels.

  All steps and decoding are one program, compiled once for each number of steps
  and images. Labels are one class for each image, repeated in turn; the number
  of classes is "no label", and None is every class in turn.

  Attributes:
    model: the network, its parameters on all devices.
    devices: how many share a batch.
  """

  model: Model
  devices: int

  @property
  def steps(self) -> int:
    """Steps unless told otherwise: 2, or what a teacher's solver takes."""
    return self.model.steps

  def sample(
    self,
    labels: Labels = None,
    *,
    steps: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    num: int | None = None,
  ) -> np.ndarray:
    """Draws images.

    Args:
      labels: see above.
      steps: of the sampler; None is `self.steps`.
      seed: image `i` is a function of `(seed, i, label i)`.
      guidance: the scale; None is the run's own, `config.sample.guidance`.
      num: how many; None is one for each label.

    Returns:
      uint8 `[N, H, W, C]`.

    Raises:
      UserError: labels that are no classes, or guidance for a network that
        takes none.
    """
    label = self._labels(labels, num)
    n = self.devices
    full = np.resize(label, -(-len(label) // n) * n)
    images = self.model.sample(
      full,
      steps=steps,
      seed=seed,
      guidance=guidance,
      batch_size=BATCH * n,
    )
    return images[: len(label)]

  def noise(
    self, num: int, *, steps: int | None = None, seed: int = 0
  ) -> np.ndarray:
    """The noise of `sample`'s first images, unit normal `[draws, N, H, W, C]`.

    A student takes a draw for each step, a diffusion teacher one in all.
    """
    draws = self.model.draws(self.steps if steps is None else steps)
    index = jnp.arange(num, dtype=jnp.int32)
    return np.asarray(samplers.draw_noise(seed, index, draws, self._shape))

  def from_noise(
    self,
    noise: np.ndarray,
    labels: Labels = None,
    *,
    steps: int | None = None,
    guidance: float | None = None,
  ) -> np.ndarray:
    """Draws images from given noise.

    Args:
      noise: like `noise`'s.
      labels: see above.
      steps: of a diffusion teacher's solver; a student has one for each draw.
      guidance: as in `sample`.

    Returns:
      uint8 `[N, H, W, C]`.

    Raises:
      UserError: as in `sample`, or noise of another shape.
    """
    return self._run(self._draw, noise, labels, steps, guidance)

  def path(
    self,
    noise: np.ndarray,
    labels: Labels = None,
    *,
    steps: int | None = None,
    guidance: float | None = None,
  ) -> samplers.Path:
    """How the images of `from_noise` come about, as pictures.

    Args as in `from_noise`.

    Returns:
      The steps' times, radians `[N]`; the noisy samples that they begin with,
      and what the network takes those to be without noise, uint8
      `[N, B, H, W, C]`. The last prediction is the image.
    """
    path = self._run(self._path, noise, labels, steps, guidance)
    x_t, x0 = (np.moveaxis(pictures, 1, 0) for pictures in path[1:])
    return samplers.Path(path.times[0], x_t, x0)

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
    """Draws images of which something is given (see `editing`).

    Args:
      images: uint8 `[N, H, W, C]`.
      labels: see above.
      known: what stays as it is in the images: pixels, a bool mask that
        broadcasts to `[H, W]` or to the images, or any `Known` of `editing`.
        None is nothing.
      start: the time, in radians, to which the images are noised at first: near
        0 they hardly change, near pi/2 little of them is left. None starts from
        noise alone.
      steps: the more, the better what is drawn fits what is known.
      seed: of the noise.
      guidance: as in `sample`.

    Returns:
      uint8, like `images`.

    Raises:
      UserError: for a diffusion teacher or a network of latents, which do not
        edit, or arguments that do not fit.
    """
    images = np.asarray(images)
    self._check_edit(images, known, start)
    mask, transform = np.zeros((len(images), 1), bool), None
    if known is not None:
      if not isinstance(known, editing.Known):
        known = editing.pixels(known)
      mask, transform = _mask(known, images.shape), known.transform
    model = self.model
    times = editing.times(
      *(steps, start, model.codec.sigma_d, model.t_mid, model.sigma_max)
    )
    noise = np.moveaxis(self.noise(len(images), steps=steps, seed=seed), 0, 1)
    batch = noise, self._labels(labels, len(images)), images, mask
    static = times, transform, start is not None
    return self._batches(self._edit, batch, guidance, static)

  @property
  def _shape(self) -> tuple[int, int, int]:
    config = self.model.network.config
    return config.resolution, config.resolution, config.in_channels

  def _run(self, program, noise, labels, steps, guidance) -> Any:
    """The results of `_draw` or `_path`, samples first."""
    noise, model = np.asarray(noise, np.float32), self.model
    if noise.shape[2:] != self._shape or not noise.size:
      raise UserError(
        f"noise is [draws, N, {', '.join(map(str, self._shape))}], not "
        f"{list(noise.shape)}"
      )
    if model.consistency:
      if steps not in (None, len(noise)):
        raise UserError(f"{steps} steps take as many draws, not {len(noise)}")
    elif len(noise) > 1:
      raise UserError("a diffusion teacher takes one draw of noise")
    n = len(noise) if model.consistency else steps or self.steps
    unguided = self.model.scale(guidance) == 1.0 and not model.consistency
    batch = np.moveaxis(noise, 0, 1), self._labels(labels, noise.shape[1])
    return self._batches(program, batch, guidance, (n, unguided))

  def _batches(self, program, batch, guidance, static) -> Any:
    """A program's results for arrays `[N, ...]`, some of them at a time.

    Batches are filled up, so that one program serves all, on every device.
    """
    model, total, n = self.model, len(batch[0]), self.devices
    size = n * min(BATCH, -(-total // n))
    scale, parts = jnp.float32(self.model.scale(guidance)), []
    for begin in range(0, total, size):
      index = np.minimum(np.arange(begin, begin + size), total - 1)
      part = [array[index] for array in batch]
      part = jax.device_put(part, model.batch_sharding)
      drawn = program(static, model.weights, model.decoder, scale, *part)
      parts.append(jax.tree.map(np.asarray, drawn))
    return jax.tree.map(lambda *a: np.concatenate(a)[:total], *parts)

  # Programs, of a static value and arrays whose first axis is the samples'.

  @functools.cached_property
  def _draw(self) -> Callable[..., Array]:
    model = self.model

    def program(static, weights, decoder, scale, noise, label):
      draw = model.sampler(*static)
      x0 = draw(weights, jnp.moveaxis(noise, 1, 0), label, scale)
      return model.decode(x0, decoder)

    return jax.jit(program, static_argnums=0)

  @functools.cached_property
  def _path(self) -> Callable[..., samplers.Path]:
    model = self.model

    def program(static, weights, decoder, scale, noise, label):
      follow = model.path(*static)
      _, path = follow(weights, jnp.moveaxis(noise, 1, 0), label, scale)
      show = jax.vmap(lambda x: model.decode(x, decoder), out_axes=1)
      times = jnp.broadcast_to(path.times, (len(label), *path.times.shape))
      return samplers.Path(times, show(path.x_t), show(path.x0))

    return jax.jit(program, static_argnums=0)

  @functools.cached_property
  def _edit(self) -> Callable[..., Array]:
    model = self.model

    def program(static, weights, decoder, scale, noise, label, images, mask):
      times, transform, sketch = static
      F, cond = model.bind(weights, label, scale)
      data = model.codec.encode(images, jax.random.key(0))  # pixels need none
      x0 = editing.edit(
        *(F, jnp.moveaxis(noise, 1, 0), data, cond),
        *(times, model.codec.sigma_d),
        known=transform and editing.Known(mask, transform),
        sketch=sketch,
      )
      return model.decode(x0, decoder)

    return jax.jit(program, static_argnums=0)

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

  def _check_edit(self, images: np.ndarray, known, start) -> None:
    if not self.model.consistency:
      raise UserError("a diffusion teacher does not edit; load a student")
    if not isinstance(self.model.codec, PixelCodec):
      raise UserError("a network of latents does not edit images yet")
    if known is None and start is None:
      raise UserError("nothing of the images is used; give known, or start")
    if images.dtype != np.uint8 or images.shape[1:] != self._shape:
      raise UserError(
        f"images are uint8 [N, {', '.join(map(str, self._shape))}], not "
        f"{images.dtype} {list(images.shape)}"
      )
    if start is not None and not 0 < start < np.pi / 2:
      raise UserError(f"start is {start:g}; it is between 0 and pi/2")


def _mask(known: editing.Known, shape: tuple[int, ...]) -> np.ndarray:
  """What is known of each of the images, for every coefficient.

  Raises:
    UserError: it is not known of images of this shape.
  """
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  try:
    coefficients = jax.eval_shape(known.transform.forward, images)
    return np.broadcast_to(known.mask, coefficients.shape)
  except (TypeError, ValueError) as error:
    raise UserError(
      f"known does not fit images {list(shape)}: {error}"
    ) from error
