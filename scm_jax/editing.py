"""What consistency models do without being trained for it (Song et al. 2023).

Because a consistency model maps a noisy sample to data from any time, it edits:
noise is added, the network removes it, and what is known of the image is put
back, time after time (arXiv 2303.01469, Algorithm 4). What is known decides the
task: some pixels (inpainting), the means of patches (super-resolution), grey
levels (colourisation), or nothing but a sketch to start from (stroke-guided
generation, as in SDEdit). And because it maps noise to data smoothly, it
interpolates: between samples, by way of their noise.

Pure functions, as in `samplers`; `loading.Sampler` has them for images.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scm_jax import samplers, trigflow

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


class Transform(NamedTuple):
  """An orthogonal map of images to coefficients, `A` of Algorithm 4.

  Attributes:
    forward: `[B, H, W, C]` to coefficients, linear and of the same norm.
    inverse: back.
  """

  forward: Callable[[Array], Array]
  inverse: Callable[[Array], Array]


class Known(NamedTuple):
  """What is known of an image.

  Attributes:
    mask: of the coefficients, true where they are known; broadcast to them
      (`1 - Omega` of Algorithm 4).
    transform: from images to coefficients.
  """

  mask: Any
  transform: Transform

  def restore(self, x0: Array, reference: Array) -> Array:
    """`x0` with the reference's coefficients where they are known."""
    A = self.transform
    kept = jnp.where(self.mask, A.forward(reference), A.forward(x0))
    return A.inverse(kept)


_IDENTITY = Transform(lambda x: x, lambda x: x)


def pixels(mask: Any) -> Known:
  """Pixels where `mask` is true are known, and kept to the bit: inpainting.

  Args:
    mask: bool, broadcast to `[H, W]` for all images and channels if it has up
      to two axes, else to `[B, H, W, C]`.
  """
  mask = np.asarray(mask, bool)
  return Known(mask[..., None] if mask.ndim <= 2 else mask, _IDENTITY)


def patch_means(size: int) -> Known:
  """The mean of every patch of `size x size` is known: super-resolution."""
  first = np.arange(size**2)[:, None] == 0
  return Known(first, _patches(size))


def grey(weights: tuple[float, ...] = LUMA) -> Known:
  """A weighted sum of the channels is known: colourisation.

  Args:
    weights: of the channels of `x0`. For images whose channels were divided
      by different deviations, the weights times those (see `PixelCodec.std`).
  """
  return Known(np.arange(len(weights)) == 0, _channels(tuple(weights)))


@functools.cache
def _patches(size: int) -> Transform:
  """`[B, H, W, C]` to `[B, H/size, W/size, size^2, C]`, the mean first."""
  Q = _orthogonal(np.ones(size**2))

  def forward(x):
    batch, height, width, channels = x.shape
    if height % size or width % size:
      raise ValueError(f"patches of {size} do not fill {height}x{width}")
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
  """Channels turned so that the first is along `weights`."""
  Q = _orthogonal(np.asarray(weights, np.float64))
  return Transform(
    lambda x: _product("ij,bhwj->bhwi", Q, x),
    lambda y: _product("ji,bhwj->bhwi", Q, y),
  )


def _orthogonal(first: np.ndarray) -> np.ndarray:
  """An orthogonal matrix whose first row is along `first`."""
  columns = np.column_stack([first, np.eye(len(first))])
  Q = np.linalg.qr(columns)[0].T
  return Q * np.sign(Q[0] @ first)


def _product(subscripts: str, Q: np.ndarray, x: Array) -> Array:
  highest = jax.lax.Precision.HIGHEST
  return jnp.einsum(subscripts, jnp.asarray(Q, x.dtype), x, precision=highest)


def times(
  steps: int,
  start: float | None,
  sigma_d: float,
  t_mid: float = samplers.T_MID,
  sigma_max: float = trigflow.SIGMA_MAX,
) -> tuple[float, ...]:
  """Times of an edit, radians, decreasing.

  Args:
    steps: how many.
    start: the first; the others divide the way to 0 evenly. None is the
      sampler's own times, from `t_max`.
    sigma_d: the data's standard deviation.
    t_mid: as in `samplers.consistency_times`, like `sigma_max`.
    sigma_max: see there.

  Raises:
    ValueError: `start` is not between 0 and pi/2.
  """
  if start is None:
    return samplers.consistency_times(steps, sigma_d, t_mid, sigma_max)
  if not 0 < start < np.pi / 2:
    raise ValueError(f"start is {start:g}; it is between 0 and pi/2")
  return tuple(float(t) for t in np.linspace(start, 0.0, steps + 1)[:-1])


def edit(
  F: Callable,
  noise: Array,
  reference: Array,
  cond: dict[str, Array],
  times: tuple[float, ...],
  sigma_d: float,
  known: Known | None = None,
  sketch: bool = False,
) -> Array:
  """Draws images of which something is known (Song et al., Algorithm 4).

  Algorithm 4 blanks the unknown part of the reference first. Here it is left
  out at the start altogether, or, as a sketch, stays as it is, because strokes
  may lie there too.

  Args:
    F: the student.
    noise: unit noise, `[len(times), B, ...]`.
    reference: images as data, `[B, ...]`.
    cond: condition of the batch.
    times: radians, decreasing.
    sigma_d: the data's standard deviation.
    known: of the reference, put back after every step; None is nothing.
    sketch: whether to start from the reference, noised to the first time,
      rather than from noise.

  Returns:
    `x0`, `[B, ...]`.
  """

  def step(x0, drawn):
    z, t = sigma_d * drawn[0], jnp.full(reference.shape[:1], drawn[1])
    # At t_max, x_t is taken to be noise alone, as in the sampler.
    x_t = jnp.where(drawn[2], z, trigflow.interpolate(x0, z, t))
    x0 = trigflow.denoise(F(x_t / sigma_d, t, cond), x_t, t, sigma_d)
    return x0 if known is None else known.restore(x0, reference), None

  alone = np.arange(len(times)) == (-1 if sketch else 0)
  drawn = noise, jnp.asarray(times, noise.dtype), jnp.asarray(alone)
  return jax.lax.scan(step, reference, drawn)[0]


def slerp(a: Array, b: Array, weight: float | Array) -> Array:
  """From one noise to another on the sphere (Song et al., Appendix D).

  Between two of one norm, all have that norm; a straight line would pass
  through noise that is too weak, which the network has never seen.

  Args:
    a: noise `[...]`, one sample's.
    b: likewise.
    weight: 0 is `a`, 1 is `b`; `[N]` gives `[N, ...]`.
  """
  a, b = jnp.asarray(a), jnp.asarray(b)
  cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
  angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
  w = jnp.asarray(weight, a.dtype)
  w = w.reshape(w.shape + (1,) * a.ndim)
  # sin((1 - w) angle) / sin(angle), whose limit at 0 is 1 - w.
  part = lambda w: w * jnp.sinc(w * angle / jnp.pi) / jnp.sinc(angle / jnp.pi)
  return part(1 - w) * a + part(w) * b
