"""Zero-shot editing and interpolation with consistency models.

A consistency model maps a noisy sample of any time to data, so it can edit
without being trained to (Song et al. 2023, arXiv 2303.01469, Algorithm 4):
noise is added, the network removes it, and what is known of the image is put
back, time after time. What is known decides the task: some pixels (inpainting),
the means of patches (super-resolution), grey levels (colourisation), or nothing
but a sketch to start from (stroke-guided generation, as in SDEdit).

A consistency model also maps noise to data smoothly, so that one interpolates
between samples by interpolating their noise.

These are pure functions, as in `samplers`. `Sampler.edit` applies them to
images.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax import trigflow
from scm_jax.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # weights of red, green, blue (ITU-R BT.601)


class Transform(NamedTuple):
  """An orthogonal map from images to coefficients, Algorithm 4's `A`.

  Attributes:
    forward: the linear map from `[B, H, W, C]` to coefficients of equal norm.
    inverse: the map back to images.
  """

  forward: Callable[[Array], Array]
  inverse: Callable[[Array], Array]


class Known(NamedTuple):
  """The part of an image that is known.

  Attributes:
    mask: a bool array that broadcasts to the coefficients and is true where
      they are known (Algorithm 4's `1 - Omega`).
    transform: the map from images to coefficients.
  """

  mask: Any
  transform: Transform

  def restore(self, x0: Array, reference: Array) -> Array:
    """Replaces the known coefficients of `x0` by the reference's."""
    A = self.transform
    kept = jnp.where(self.mask, A.forward(reference), A.forward(x0))
    return A.inverse(kept)


_IDENTITY = Transform(lambda x: x, lambda x: x)


def pixels(mask: Any) -> Known:
  """Declares pixels as known, which are kept to the bit: inpainting.

  Args:
    mask: a bool array, true where pixels are known. With up to two axes it
      broadcasts to `[H, W]`, otherwise to `[B, H, W, C]`.
  """
  mask = np.asarray(mask, bool)
  return Known(mask[..., None] if mask.ndim <= 2 else mask, _IDENTITY)


def patch_means(size: int) -> Known:
  """Declares the mean of each `size x size` patch known: super-resolution."""
  if size < 1:
    raise UserError(f"patches of {size} pixels a side hold nothing; give 1")
  first = np.arange(size**2)[:, None] == 0
  return Known(first, _patches(size))


def grey(weights: tuple[float, ...] = LUMA) -> Known:
  """Declares a weighted sum of the channels known: colourisation.

  Args:
    weights: one weight for each channel of `x0`. If the images' channels were
      divided by different deviations (see `PixelCodec.std`), multiply the
      weights by these.

  Raises:
    UserError: the weights are not finite, or all zero.
  """
  if not np.isfinite(weights).all() or not np.any(weights):
    raise UserError(
      f"the weights of the channels are {weights}; they must be finite, and "
      "not all 0"
    )
  return Known(np.arange(len(weights)) == 0, _channels(tuple(weights)))


@functools.cache
def _patches(size: int) -> Transform:
  """Returns a map to `[B, H/size, W/size, size^2, C]`, the mean first."""
  Q = _orthogonal(np.ones(size**2))

  def forward(x):
    batch, height, width, channels = x.shape
    if height % size or width % size:
      raise ValueError(
        f"patches of {size}x{size} do not fill images of {height}x{width}"
      )
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    x = x.swapaxes(2, 3).reshape(*x.shape[:2], width // size, size**2, channels)
    return _product("ij,bhwjc->bhwic", Q, x)

  def inverse(y):
    batch, rows, columns, _, channels = y.shape
    x = _product("ji,bhwjc->bhwic", Q, y)
    x = x.reshape(batch, rows, columns, size, size, channels).swapaxes(2, 3)
    return x.reshape(batch, rows * size, columns * size, channels)

  return Transform(forward, inverse)


@functools.cache
def _channels(weights: tuple[float, ...]) -> Transform:
  """Returns a rotation of channels after which the first is along `weights`."""
  Q = _orthogonal(np.asarray(weights, np.float64))
  return Transform(
    lambda x: _product("ij,bhwj->bhwi", Q, x),
    lambda y: _product("ji,bhwj->bhwi", Q, y),
  )


def _orthogonal(first: np.ndarray) -> np.ndarray:
  """Returns an orthogonal matrix whose first row is along `first`."""
  columns = np.column_stack([first, np.eye(len(first))])
  Q = np.linalg.qr(columns)[0].T
  return Q * np.sign(Q[0] @ first)


def _product(subscripts: str, Q: np.ndarray, x: Array) -> Array:
  highest = jax.lax.Precision.HIGHEST
  return jnp.einsum(subscripts, jnp.asarray(Q, x.dtype), x, precision=highest)


def times(steps: int, start: float) -> tuple[float, ...]:
  """Returns the times of an edit, in radians, from `start` evenly towards 0.

  Raises:
    ValueError: `start` is not between 0 and pi/2.
  """
  if not 0 < start < np.pi / 2:
    raise ValueError(f"start is {start:g}, but must lie between 0 and pi/2")
  return tuple(float(t) for t in np.linspace(start, 0.0, steps + 1)[:-1])


class Plan(NamedTuple):
  """The steps of an edit, and what they keep.

  Attributes:
    times: the steps' times in radians, decreasing.
    known: the part of the reference that is put back after every step; None is
      nothing.
    sketch: whether to start from the reference, noised to the first time,
      rather than from noise.
  """

  times: tuple[float, ...]
  known: Known | None = None
  sketch: bool = False


def edit(
  F: Callable,
  noise: Array,
  reference: Array,
  cond: dict[str, Array],
  sigma_d: float,
  plan: Plan,
) -> Array:
  """Draws images of which a part is known (Song et al. 2023, Algorithm 4).

  Algorithm 4 blanks the unknown part of the reference first. Here the first
  step starts from noise without the reference, or, for a sketch, from the whole
  reference, because strokes may lie in the unknown part, too.

  Args:
    F: the consistency model, `F(x / sigma_d, t, cond)`.
    noise: unit noise `[steps, B, ...]`.
    reference: the given images as data `[B, ...]`.
    cond: the batch's condition.
    sigma_d: the data's standard deviation.
    plan: the steps, and what they keep.

  Returns:
    `x0`, `[B, ...]`.
  """
  times, known, sketch = plan

  def step(x0, inputs):
    z, t, only_noise = inputs
    z, t = sigma_d * z, jnp.full(reference.shape[:1], t)
    # At t_max, x_t is taken to be noise alone, as in the sampler.
    x_t = jnp.where(only_noise, z, trigflow.interpolate(x0, z, t))
    x0 = trigflow.denoise(F(x_t / sigma_d, t, cond), x_t, t, sigma_d)
    return x0 if known is None else known.restore(x0, reference), None

  only_noise = np.arange(len(times)) == (-1 if sketch else 0)
  inputs = noise, jnp.asarray(times, noise.dtype), jnp.asarray(only_noise)
  return jax.lax.scan(step, reference, inputs)[0]


def slerp(a: Array, b: Array, weight: float | Array) -> Array:
  """Interpolates between two noises on the sphere (Song et al., Appendix D).

  Everything between two noises of one norm has that norm. A straight line would
  pass through weaker noise, which the network has never seen.

  Args:
    a: one sample's noise `[...]`.
    b: another sample's noise `[...]`.
    weight: the position between `a` (0) and `b` (1), one or `[N]`.

  Returns:
    The noise `[...]`, or `[N, ...]`.
  """
  a, b = jnp.asarray(a), jnp.asarray(b)
  cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
  angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
  w = jnp.asarray(weight, a.dtype)
  w = w.reshape(w.shape + (1,) * a.ndim)
  # sin((1 - w) angle) / sin(angle), whose limit at 0 is 1 - w.
  part = lambda w: w * jnp.sinc(w * angle / jnp.pi) / jnp.sinc(angle / jnp.pi)
  return part(1 - w) * a + part(w) * b
