"""An endless smooth path through noise, along which pictures change slowly."""

import functools

import jax.numpy as jnp
import numpy as np

from scm_jax import samplers
from scm_jax.sampler import Sampler

# No two have a ratio of whole numbers, so that the path never closes.
_SPEEDS = np.sqrt([1.0, 2.0, 3.0])


def weights(at: float) -> np.ndarray:
  """Returns the weights of the path's noises at a place, float32 `[6]`.

  The place runs around one circle for each pair of noises. The squares of the
  weights sum to 1, so that a sum of independent unit noises with these weights
  is unit noise everywhere on the path, and has nearly constant norm.
  """
  angles = at * _SPEEDS
  pairs = np.stack([np.cos(angles), np.sin(angles)], axis=-1).ravel()
  return (pairs / np.sqrt(len(_SPEEDS))).astype(np.float32)


def noise(
  sampler: Sampler, at: float, *, num: int = 1, steps: int = 1, seed: int = 0
) -> np.ndarray:
  """Returns the noise at a place of the path that a seed stands for.

  Args:
    sampler: the network that will draw from it by `from_noise`.
    at: the place; 1 further on, noise has turned by about 80 degrees.
    num: the number of images, each of which has a path of its own.
    steps: the number of steps that will be taken.
    seed: the seed of the path.

  Returns:
    Unit noise `[draws, num, H, W, C]`.
  """
  draws = sampler.noise_draws(steps)
  anchors = _anchors(seed, num, draws, sampler.data_shape)
  return np.einsum("dnkhwc,k->dnhwc", anchors, weights(at))


@functools.lru_cache(maxsize=4)
def _anchors(
  seed: int, num: int, draws: int, shape: tuple[int, ...]
) -> np.ndarray:
  """Returns the noises that paths are sums of, `[draws, num, 6, H, W, C]`."""
  count = 2 * len(_SPEEDS)
  index = jnp.arange(num * count, dtype=jnp.int32)
  drawn = np.asarray(samplers.draw_noise(seed, index, draws, shape))
  return drawn.reshape(draws, num, count, *shape)
